"""How long each phase took, how each migration ended, and how fast it copied: of what was seen, and of nothing else."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from diskmigration.controller.outcome_metrics import OutcomeMetrics
from diskmigration.controller.records import Migration, read_migration
from diskmigration.controller.throughput import Throughput
from tests.unit.controller.builders import migration_body

GIB = 2**30
SIDES = {
    "source": {"storageDomainName": "a", "type": "File"},
    "destination": {"storageDomainName": "b", "type": "File"},
}


class Followed:
    """One migration whose statuses are observed at the times given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.throughput = Throughput()
        self.courses = OutcomeMetrics(self.throughput, clock=lambda: self.now)
        self.last: Migration | None = None

    def shows(self, phase: str, *, at: float, reason: str = "Migrated", **status: Any) -> None:
        self.now = at
        succeeded = {
            "type": "Succeeded",
            "status": "True",
            "reason": reason,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        body = migration_body("m", status={"phase": phase, "conditions": [succeeded], **SIDES, **status})
        after = read_migration(body)
        self.courses.observe(self.last, after, body["status"])
        self.last = None if after.is_final else after


@pytest.fixture
def followed() -> Followed:
    made = Followed()
    made.last = read_migration(migration_body("m"))
    return made


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_each_phase_is_counted_once_with_its_time(followed: Followed) -> None:
    phases = {"Pending": 0, "Scheduled": 7, "CopyingChain": 8, "Replicating": 10, "Synchronized": 15}
    before = {phase: counted("diskmigration_phase_seconds_sum", phase=phase) for phase in phases}
    for phase, at in phases.items():
        followed.shows(phase, at=at)
        followed.shows(phase, at=at + 0.5)
    followed.shows("Succeeded", at=115, progress={"copiedBytes": GIB})
    took = {phase: counted("diskmigration_phase_seconds_sum", phase=phase) - before[phase] for phase in phases}
    assert took == {"Pending": 7, "Scheduled": 1, "CopyingChain": 2, "Replicating": 5, "Synchronized": 100}
    assert followed.throughput.seconds_for(("a", "b"), GIB) == 7


@pytest.mark.parametrize(("reason", "label"), [("Migrated", "Migrated"), ("MadeUp", "Other")])
def test_an_end_is_counted_once_by_its_reason(followed: Followed, reason: str, label: str) -> None:
    before = counted("diskmigration_ended_total", phase="Succeeded", reason=label)
    moved = counted("diskmigration_moved_bytes_total", storage_domain="b")
    followed.shows("Replicating", at=0)
    for _ in range(2):
        followed.shows("Succeeded", at=1, reason=reason, progress={"copiedBytes": 5})
    assert counted("diskmigration_ended_total", phase="Succeeded", reason=label) - before == 1
    assert counted("diskmigration_moved_bytes_total", storage_domain="b") - moved == 5


def test_an_operator_that_comes_late_counts_no_phase_and_no_rate_that_it_has_not_seen() -> None:
    followed = Followed()
    before = counted("diskmigration_phase_seconds_count", phase="Replicating")
    followed.shows("Replicating", at=100)
    followed.shows("Synchronized", at=101)
    followed.shows("Succeeded", at=102, progress={"copiedBytes": GIB})
    assert counted("diskmigration_phase_seconds_count", phase="Replicating") == before
    assert followed.throughput.seconds_for(("a", "b"), GIB) is None


def test_one_that_has_ended_before_it_was_seen_is_not_counted() -> None:
    followed = Followed()
    before = counted("diskmigration_ended_total", phase="Failed", reason="CopyFailed")
    followed.shows("Failed", at=0, reason="CopyFailed")
    assert counted("diskmigration_ended_total", phase="Failed", reason="CopyFailed") == before


@pytest.mark.parametrize("progress", [None, 7, {"copiedBytes": "x"}, {"copiedBytes": -1}])
def test_a_progress_that_somebody_wrote_by_hand_is_survived(followed: Followed, progress: Any) -> None:
    followed.shows("Replicating", at=0)
    followed.shows("Succeeded", at=1, progress=progress)
