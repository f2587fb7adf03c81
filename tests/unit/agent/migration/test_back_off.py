"""How a worker waits after a step that failed: what the step itself causes does not bring the next try about."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.extender.machine import VolumeStatus
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.hypervisor.events import BlockJobChanged, DomainEvent, IoErrorMet, LifecycleChanged
from diskmigration.agent.migration.activity import Operations
from diskmigration.agent.migration.live_status import LiveStatus
from diskmigration.agent.migration.progress import Meter
from diskmigration.agent.migration.recovery import back_off
from diskmigration.agent.migration.stalled import stalled
from diskmigration.agent.migration.worker import Worker
from diskmigration.api.errors import MigrationError, Reason
from tests.unit.agent.builders import EPOCH, UID, migration

SECONDS = 0.3
LONG_SECONDS = 60.0
EVENTS = [BlockJobChanged(UID, "vda"), IoErrorMet(UID, "enospc"), LifecycleChanged(UID)]


def worker() -> Worker:
    statuses: Any = SimpleNamespace()
    node: Any = SimpleNamespace(name="node-a")
    found = Worker(node, migration(), statuses)
    found._migration.vm_uuid = UID
    return found


def waited(found: Worker, context: Any, seconds: float) -> float:
    began_at = time.monotonic()
    back_off(found._migration, context, seconds)
    return time.monotonic() - began_at


@contextmanager
def coming(found: Worker, event: DomainEvent) -> Iterator[None]:
    """The event comes again and again."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.005):
            found.notice(event)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_no_event_of_a_vm_that_runs_on_cuts_the_wait_short(event: DomainEvent) -> None:
    found = worker()
    with coming(found, event):
        assert waited(found, SimpleNamespace(is_running=lambda: True), SECONDS) >= SECONDS


def test_a_vm_that_has_ended_is_looked_at_soon() -> None:
    found = worker()
    runs = iter([True])
    with coming(found, LifecycleChanged(UID)):
        context = SimpleNamespace(is_running=lambda: next(runs, False))
        assert waited(found, context, LONG_SECONDS) < LONG_SECONDS / 2


def test_a_worker_that_is_to_stop_does_not_wait_on() -> None:
    found = worker()
    found.stop()
    assert waited(found, SimpleNamespace(is_running=lambda: True), LONG_SECONDS) < LONG_SECONDS / 2


def test_a_libvirtd_that_does_not_answer_ends_no_worker() -> None:
    def fail() -> bool:
        raise HypervisorUnavailableError("libvirtd does not answer.")

    found = worker()
    found._migration.wake.set()
    waited(found, SimpleNamespace(is_running=fail), LONG_SECONDS)


def told(status: LiveStatus) -> str:
    activity = status.activity()
    return activity.message if activity is not None else ""


def test_a_step_that_fails_twice_in_a_row_stalls_the_migration_until_it_ends_well() -> None:
    quiet: Any = SimpleNamespace(status_of=lambda _: VolumeStatus())
    status = LiveStatus(Meter(), operations=Operations(), find_wait=lambda: None, on_change=lambda: None)
    context: Any = SimpleNamespace(
        node=SimpleNamespace(extender=quiet),
        journal=SimpleNamespace(volumes=(), at_source=(), at_destination=()),
        status=status,
    )
    status.show_merge("Merging a into b", since=EPOCH)
    error = MigrationError(Reason.MERGE_FAILED, "It failed.")
    status.note_failure(error)
    assert told(status).startswith("It failed. This has lasted since 20")
    assert stalled(context) is None
    status.note_failure(error)
    assert stalled(context) is error
    status.show_merge("Merging a into b", since=EPOCH)
    assert told(status) == "Merging a into b since 2026-01-01T00:00:00Z."
    status.note_success()
    assert told(status) == ""
    assert status.failures == 0
    assert stalled(context) is None
