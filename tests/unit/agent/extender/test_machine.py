"""What becomes of the events and polls of one VM, in which order, and what libvirt is asked for it.

libvirt is a stand-in here: it holds a call for as long as a busy QEMU would, which no test can have of a real one.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import libvirt
import pytest

from diskmigration.agent.extender.extension_scheduler import ExtensionScheduler
from diskmigration.agent.extender.machine import Environment, VirtualMachine
from diskmigration.agent.extender.observation import Observation, Polled
from diskmigration.agent.extender.watermark import largest_useful_size
from diskmigration.agent.hypervisor import domain_xml, statistics
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.events import DomainEvent, LifecycleChanged, ThresholdPassed
from diskmigration.agent.hypervisor.qemu_calls import QemuCalls
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.agent.storage.locations import Locations
from tests.unit.agent.builders import GIB, MIB, storage_domain
from tests.unit.agent.extender.test_thin_disk import Located
from tests.unit.agent.waiting import PATIENCE_SECONDS, until

UUID = "7cf1b2b4-6d0b-4a6e-8f0e-5d1f5a3f8f10"
XML = f"""<domain type='kvm' id='1'><name>vm</name><uuid>{UUID}</uuid><devices>
<disk type='block' device='disk'><driver name='qemu' type='qcow2'/><source dev='/dev/volume' index='1'/>
<backingStore/><target dev='vda'/><alias name='virtio-disk0'/></disk></devices></domain>"""
RUNNING = (libvirt.VIR_DOMAIN_RUNNING, 1)
WITHOUT_SPACE = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)
SIZE = 2 * GIB
WATERMARK = SIZE - storage_domain("pool", "loop").spec.thin_provisioning.high_watermark
"""What is written past it makes the volume due; all writes are small, so that no rate adapts the head room."""


@dataclass
class Libvirt:
    """A connection and the one VM that it has. The calls that wait for QEMU wait until `answers` is set."""

    allocated: int = WATERMARK - 2 * MIB
    physical: int = SIZE
    state: tuple[int, int] = RUNNING
    is_gone: bool = False
    threshold: int = 0
    answers: threading.Event = field(default_factory=threading.Event)
    calls: list[str] = field(default_factory=list)
    qemu_calls: QemuCalls = field(default_factory=QemuCalls)

    @contextmanager
    def lend(self) -> Iterator["Libvirt"]:
        yield self

    def connect(self) -> "Libvirt":
        return self

    def lookupByUUIDString(self, _uuid: str) -> "Libvirt":  # noqa: N802 - libvirt's name
        self.calls.append("lookup")
        return self

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return UUID

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        return 1

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's name
        self.calls.append("xml")
        return XML

    def row(self) -> dict[str, object]:
        return {
            "state.state": self.state[0],
            "state.reason": self.state[1],
            "block.count": 1,
            "block.0.name": "vda",
            "block.0.path": "/dev/volume",
            "block.0.backingIndex": 1,
            "block.0.allocation": self.allocated,
            "block.0.capacity": 16 * GIB,
            "block.0.physical": self.physical,
            "block.0.threshold": self.threshold,
        }

    def domainListGetStats(self, *_: Any) -> list[tuple["Libvirt", dict[str, object]]]:  # noqa: N802 - libvirt's name
        assert self.answers.wait(PATIENCE_SECONDS)
        self.calls.append("statistics")
        return [] if self.is_gone else [(self, self.row())]

    def setBlockThreshold(self, _device: str, offset: int, _flags: int) -> None:  # noqa: N802 - libvirt's name
        assert self.answers.wait(PATIENCE_SECONDS)
        self.calls.append("threshold")
        self.threshold = offset

    def diskErrors(self, _flags: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        self.calls.append("errors")
        return {"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE} if self.state == WITHOUT_SPACE else {}

    def resume(self) -> None:
        self.calls.append("resume")
        self.state = RUNNING


@dataclass
class Pool:
    """A storage domain with the VM's volume. A call to extend waits until `answers` is set."""

    vm: Libvirt
    is_full_now: bool = False
    answers: threading.Event = field(default_factory=threading.Event)

    def size_bytes(self, _volume: str) -> int:
        return self.vm.physical

    def is_full(self, _volume: str) -> bool:
        return self.is_full_now

    def extend(self, _volume: str, size: int) -> int:
        self.vm.calls.append("extend")
        assert self.answers.wait(PATIENCE_SECONDS)
        if self.is_full_now:
            raise NoRoomError("It is full.")
        self.vm.physical = size
        return size


@dataclass
class Bench:
    libvirt: Libvirt
    pool: Pool
    machine: VirtualMachine
    domains: Located

    def passes(self, offset: int) -> None:
        """The guest writes up to there, and libvirt tells of it twice."""
        self.libvirt.allocated, self.libvirt.threshold = offset, 0
        for device in ("vda[1]", "vda"):
            self.machine.take_event(ThresholdPassed(UUID, device, offset))

    def rest(self) -> list[str]:
        """Wait until nothing is under way, and return what was called since the last time."""
        until(lambda: self.machine.is_at_rest)
        found, self.libvirt.calls = self.libvirt.calls, []
        return found

    def poll(self, asked_at: float) -> None:
        found = statistics.parse(UUID, 1, self.libvirt.row())
        self.machine.take_poll(found, Polled((found,), asked_at, asked_at), {})


@pytest.fixture
def bench() -> Iterator[Bench]:
    vm = Libvirt()
    pool = Pool(vm)
    domains = Located({})
    domains.pool = OpenDomain(storage_domain("pool", "loop"), cast("Any", pool))
    scheduler = ExtensionScheduler()
    for may_answer in (vm.answers, pool.answers):
        may_answer.set()
    with ThreadPoolExecutor(2) as observers, ThreadPoolExecutor(2) as answerers:
        environment = Environment(
            connection=cast("Connection", vm),
            domains=domains,
            locations=Locations(domains, domains.locate_in_any),
            describe=lambda _: None,
            scheduler=scheduler,
            observers=observers,
            answerers=answerers,
        )
        found = Bench(vm, pool, VirtualMachine(UUID, environment), domains)
        found.machine.observe_soon()
        assert "threshold" in found.rest()
        yield found
        for may_answer in (vm.answers, pool.answers):
            may_answer.set()
        scheduler.stop()


def test_an_event_extends_and_only_then_is_the_threshold_armed_and_the_vm_observed(bench: Bench) -> None:
    bench.passes(WATERMARK + MIB)
    calls = bench.rest()
    assert calls == ["lookup", "xml", "extend", "lookup", "threshold", "lookup", "xml", "statistics"]
    assert bench.libvirt.physical > SIZE
    status = bench.machine.status_of("/dev/volume")
    assert status is not None
    assert (status.extensions, status.trouble) == (1, None)


def test_a_volume_is_located_once_while_the_storage_domains_stay_the_same(bench: Bench) -> None:
    bench.passes(WATERMARK + MIB)
    bench.rest()
    assert len(bench.domains.asked) == 1
    bench.domains.update_node_labels({"rack": "2"})
    bench.machine.observe_soon()
    bench.rest()
    assert len(bench.domains.asked) == 2


def test_an_event_does_not_wait_for_an_observation_that_waits_for_a_busy_qemu(bench: Bench) -> None:
    bench.libvirt.answers.clear()
    bench.machine.observe_soon()
    until(lambda: "xml" in bench.libvirt.calls)
    bench.passes(WATERMARK + MIB)
    until(lambda: bench.libvirt.physical > SIZE)
    assert "statistics" not in bench.libvirt.calls
    bench.libvirt.answers.set()
    assert bench.rest().count("extend") == 1
    assert bench.libvirt.threshold > 0


def test_a_qemu_that_does_not_answer_keeps_no_thread_of_its_storage_domain(bench: Bench) -> None:
    bench.libvirt.answers.clear()
    bench.passes(WATERMARK + MIB)
    until(lambda: bench.libvirt.physical > SIZE)
    until(lambda: not bench.machine._extensions.are_under_way())
    assert not bench.machine.is_at_rest


def test_an_event_that_needs_no_extension_has_the_vm_observed(bench: Bench) -> None:
    bench.passes(WATERMARK - MIB)
    assert bench.rest() == ["lookup", "xml", "lookup", "xml", "statistics", "lookup", "threshold"]


def test_no_event_is_answered_by_what_was_known_before_the_vm_started_again(bench: Bench) -> None:
    bench.machine.take_event(LifecycleChanged(UUID, has_started=True))
    bench.rest()
    bench.machine.state.believed = None
    bench.passes(WATERMARK + MIB)
    assert bench.rest()[:3] == ["lookup", "xml", "statistics"]
    assert bench.libvirt.physical > SIZE


def test_an_idle_vm_is_not_observed_by_a_poll_that_shows_the_same(bench: Bench) -> None:
    bench.machine.observe_soon()
    bench.rest()
    bench.poll(1e9)
    assert bench.rest() == []
    bench.libvirt.allocated += MIB // 2
    bench.poll(1e9)
    assert bench.rest() != []


def test_a_guest_that_met_a_full_volume_is_extended_and_resumed(bench: Bench) -> None:
    bench.libvirt.state, bench.libvirt.allocated = WITHOUT_SPACE, SIZE
    bench.machine.take_event(DomainEvent(UUID))
    calls = bench.rest()
    assert calls.index("extend") < calls.index("resume")
    assert bench.libvirt.state == RUNNING
    assert not bench.machine.state.resumes.in_vain


def test_a_guest_waits_while_its_storage_domain_is_full(bench: Bench) -> None:
    bench.libvirt.state, bench.libvirt.physical = WITHOUT_SPACE, 2 * largest_useful_size(16 * GIB)
    bench.pool.is_full_now = True
    bench.machine.take_event(DomainEvent(UUID))
    assert "resume" not in bench.rest()
    status = bench.machine.status_of("/dev/volume")
    assert status is not None
    assert status.full_domain == "pool"

    bench.pool.is_full_now = False
    bench.machine.observe_soon()
    assert "resume" in bench.rest()
    bench.machine.observe_soon()
    bench.rest()
    status = bench.machine.status_of("/dev/volume")
    assert status is None or status.full_domain is None


def test_why_a_volume_cannot_be_extended_is_told_until_it_can(bench: Bench) -> None:
    bench.pool.is_full_now = True
    bench.passes(WATERMARK + MIB)
    bench.rest()
    status = bench.machine.status_of("/dev/volume")
    assert status is not None
    assert isinstance(status.trouble, NoRoomError)
    bench.pool.is_full_now = False
    bench.machine.observe_soon()
    bench.rest()
    status = bench.machine.status_of("/dev/volume")
    assert status is not None
    assert (status.extensions, status.trouble) == (1, None)


def test_a_vm_that_is_gone_leaves_nothing_known(bench: Bench) -> None:
    assert bench.machine.histories
    bench.libvirt.is_gone = True
    bench.machine.observe_soon()
    bench.rest()
    assert bench.machine.histories == {}
    assert bench.machine.state.believed is None
    assert bench.machine.state.volume_count == 0


def test_what_a_poll_offers_is_not_taken_where_libvirt_is_to_be_asked(bench: Bench) -> None:
    bench.libvirt.answers.clear()
    bench.machine.observe_soon()
    until(lambda: "xml" in bench.libvirt.calls)
    bench.machine.observe_soon()
    found = statistics.parse(UUID, 1, bench.libvirt.row())
    bench.machine.observe_soon(Observation(domain_xml.parse(XML), found, 1e9, 1e9))
    bench.libvirt.answers.set()
    assert bench.rest().count("statistics") == 2
