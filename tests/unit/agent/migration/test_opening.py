"""Before an attempt has begun: what ends the wait for it, and that it is told what is waited for."""

import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.migration.opening import wait_for_next_attempt
from diskmigration.agent.migration.run import Run
from diskmigration.api.disk_migration import DiskMigration, DiskMigrationStatus, Phase
from tests.unit.agent.builders import EPOCH, migration
from tests.unit.agent.waiting import PATIENCE_SECONDS

LONG_AGO = datetime.now(UTC) - timedelta(days=1)


def run(of: DiskMigration) -> tuple[Run, list[DiskMigrationStatus]]:
    shown: list[DiskMigrationStatus] = []
    statuses: Any = SimpleNamespace(show=lambda _, status: shown.append(status))
    node: Any = SimpleNamespace(name="node-a")
    found = Run(node, of, statuses)
    # The longest wait.
    found.attempt_number = 10
    return found, shown


def waited(found: Run) -> float:
    began_at = time.monotonic()
    wait_for_next_attempt(found, "It failed.")
    return time.monotonic() - began_at


CANCELLED = migration(spec={"cancel": True})
DELETED = migration(deletionTimestamp=EPOCH.isoformat())
LATE = migration(spec={"activeDeadlineSeconds": 60}).model_copy(
    update={"status": DiskMigrationStatus(start_time=LONG_AGO)}
)


@pytest.mark.parametrize("of", [CANCELLED, DELETED, LATE], ids=["cancelled", "deleted", "late"])
def test_one_that_is_not_wanted_any_more_waits_for_no_attempt(of: DiskMigration) -> None:
    found, _ = run(of)
    assert not found.keep_on()
    assert waited(found) < PATIENCE_SECONDS


def test_one_that_is_cancelled_while_it_waits_does_not_wait_on() -> None:
    found, shown = run(migration())
    assert found.keep_on()

    def cancel() -> None:
        found.latest = CANCELLED
        found.wake.set()

    timer = threading.Timer(0.1, cancel)
    timer.start()
    assert waited(found) < PATIENCE_SECONDS
    timer.join()
    [status] = shown
    [message] = {condition.message for condition in status.conditions}
    assert message.startswith("Attempt 11 follows within 60 s. It failed. This has lasted since 20")


@pytest.mark.parametrize("how", ["gone", "stopping"])
def test_one_whose_object_or_agent_goes_waits_for_no_attempt(how: str) -> None:
    found, _ = run(migration())
    if how == "gone":
        found.object_is_gone = True
    else:
        found.stopping.set()
    assert waited(found) < PATIENCE_SECONDS


def test_what_does_not_answer_is_told_with_since_when() -> None:
    found, shown = run(migration())
    for _ in range(2):
        found.wake.set()
        found.await_answer(HypervisorUnavailableError("libvirtd does not answer."))
    messages = {condition.message for status in shown for condition in status.conditions}
    [message] = messages
    assert message.startswith("libvirtd does not answer. This has lasted since 20")
    assert {status.phase for status in shown} == {Phase.SCHEDULED}
    found.note_answer()
    found.show(Phase.SCHEDULED)
    assert len(shown) == 2
