"""Calls that wait for QEMUs which hang leave workers of libvirtd to all others."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from diskmigration.agent.hypervisor import qemu_calls
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.hypervisor.qemu_calls import QemuCalls, SilentVms


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_calls, "FREE_SECONDS", 0.1)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Calls that QEMUs do not answer before the test's end."""
    with ExitStack() as stack:
        yield stack


def test_a_vm_that_answers_is_asked_as_often_as_one_likes(held: ExitStack) -> None:
    silent = SilentVms()
    silent.know({"hangs"})
    calls = QemuCalls(silent)
    for _ in range(5):
        held.enter_context(calls.one("answers"))


def test_one_call_at_a_time_waits_for_the_vms_that_do_not_answer(held: ExitStack) -> None:
    silent = SilentVms()
    silent.know({"hangs", "hangs-too"})
    calls, of_the_extender = QemuCalls(silent), QemuCalls(silent)
    with calls.one("hangs"):
        for others in (calls, of_the_extender):
            with pytest.raises(HypervisorUnavailableError, match="libvirt did not answer when the VM hangs-too"):
                held.enter_context(others.one("hangs-too"))
        held.enter_context(calls.one())
    held.enter_context(of_the_extender.one("hangs-too"))


def test_one_that_answers_again_is_asked_as_before(held: ExitStack) -> None:
    silent = SilentVms()
    calls = QemuCalls(silent)
    silent.know({"vm"})
    held.enter_context(calls.one("vm"))
    silent.know(set())
    held.enter_context(calls.one("vm"))


def test_no_more_calls_wait_than_libvirtd_has_workers_for(held: ExitStack) -> None:
    calls = QemuCalls(most=3)
    for number in range(3):
        held.enter_context(calls.one(f"vm-{number}"))
    with pytest.raises(HypervisorUnavailableError, match="max_workers"):
        held.enter_context(calls.one("another"))


def test_one_that_was_refused_takes_no_place(held: ExitStack) -> None:
    silent = SilentVms()
    silent.know({"vm"})
    calls = QemuCalls(silent, most=2)
    with calls.one("vm"):
        for _ in range(3):
            with pytest.raises(HypervisorUnavailableError):
                held.enter_context(calls.one("vm"))
        held.enter_context(calls.one("another"))
    with pytest.raises(HypervisorUnavailableError, match="max_workers"), calls.one("vm"), calls.one("a third"):
        pass
    held.enter_context(calls.one("vm"))


def test_a_call_waits_a_moment_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_calls, "FREE_SECONDS", 60.0)
    calls, has_place = QemuCalls(most=1), threading.Event()

    def call() -> None:
        with calls.one("another"):
            has_place.set()

    with ThreadPoolExecutor(1) as thread:
        with calls.one("vm"):
            waiting = thread.submit(call)
            assert not has_place.wait(0.1)
        waiting.result(60)
    assert has_place.is_set()
