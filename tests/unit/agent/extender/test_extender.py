"""A VM has one object for as long as it runs or something is under way for it, and what it knows ends with it."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.extender.extender import Extender
from diskmigration.agent.extender.machine import VirtualMachine
from diskmigration.agent.extender.observation import Polled
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.hypervisor.events import DomainEvent, Events, ThresholdPassed
from diskmigration.agent.hypervisor.qemu_calls import QemuCalls
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.agent.storage.domains import StorageDomains
from tests.unit.agent.waiting import PATIENCE_SECONDS, until

VM = "7cf1b2b4-6d0b-4a6e-8f0e-5d1f5a3f8f10"
RUNNING = DomainStatistics(VM, 1, (), state=(1, 1))


class Libvirtd:
    """A connection that cannot be had, which is found out when `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()
        self.qemu_calls = QemuCalls()

    def on_open(self, _callback: object) -> None:
        pass

    def lend(self) -> Any:
        self.is_asked.set()
        assert self.answers.wait(PATIENCE_SECONDS)
        raise HypervisorUnavailableError("It is away.")


@pytest.fixture
def libvirtd() -> Libvirtd:
    return Libvirtd()


@pytest.fixture
def extender(libvirtd: Libvirtd) -> Iterator[Extender]:
    connection: Any = libvirtd
    health: Any = SimpleNamespace(turned=lambda *_, **__: None)
    found = Extender(connection, Events(connection), StorageDomains({}), health, describe=lambda _: None)
    found.start()
    yield found
    found.stop()


def machines(extender: Extender) -> tuple[VirtualMachine, ...]:
    return extender._all()


def test_a_vm_has_one_object_from_its_first_event_until_a_poll_does_not_have_it(extender: Extender) -> None:
    extender._notice(DomainEvent(VM))
    [machine] = machines(extender)
    extender._notice(ThresholdPassed(VM, "vda[1]", 1))
    extender.observe_soon(VM)
    until(lambda: machine.is_at_rest)
    extender.take_poll((RUNNING,), 0.0)
    until(lambda: machine.is_at_rest)
    assert machines(extender) == (machine,)

    extender.take_poll((), 0.0)
    until(lambda: machines(extender) == ())


def test_an_object_that_is_at_work_stays_the_only_one_of_its_vm(extender: Extender, libvirtd: Libvirtd) -> None:
    libvirtd.answers.clear()
    extender.observe_soon(VM)
    assert libvirtd.is_asked.wait(PATIENCE_SECONDS)
    [machine] = machines(extender)
    before = machine.state
    extender.take_poll((), 0.0)
    until(lambda: machine.state is not before)
    assert machines(extender) == (machine,)
    libvirtd.answers.set()
    until(lambda: machine.is_at_rest)
    extender.take_poll((), 0.0)
    until(lambda: machines(extender) == ())


def test_a_poll_that_is_older_than_an_observation_ends_nothing(extender: Extender) -> None:
    extender.observe_soon(VM)
    [machine] = machines(extender)
    until(lambda: machine.is_at_rest)
    state = machine.state
    state.observed_at = 2.0
    extender._look_after_all(Polled((), 1.0, 1.5))
    assert machines(extender) == (machine,)
    assert machine.state is state
    extender._look_after_all(Polled((), 3.0, 3.5))
    assert machines(extender) == ()


def test_nothing_is_known_of_a_volume_of_no_vm(extender: Extender) -> None:
    status = extender.status_of("/dev/none")
    assert (status.extensions, status.trouble, status.implausible, status.full_domain) == (0, None, None, None)
