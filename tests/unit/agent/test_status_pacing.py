"""How often a status is written: soon where something has happened, seldom where only figures move."""

from datetime import UTC, datetime
from typing import Any

import pytest

from diskmigration.agent.status_pacing import (
    APART_SECONDS,
    FIGURES_PER_SECOND,
    FIGURES_SECONDS,
    LAST_STATE_SECONDS,
    LAST_TEXT_SECONDS,
    STATE_SECONDS,
    TEXT_SECONDS,
    Budget,
    Change,
    change,
    interval,
    is_echo,
    state_is_due_at,
)
from diskmigration.api.conditions import condition
from diskmigration.api.disk_migration import (
    DiskMigrationStatus,
    Phase,
    Progress,
    Side,
    Volume,
    VolumeFormat,
    VolumeRole,
)
from diskmigration.api.storage_domain import StorageType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIB = 2**40


def status(*, copied: int = 0, message: str = "", extensions: int = 0, **changes: Any) -> DiskMigrationStatus:
    said = condition((), "Ready", False, reason="Replicating", message=message, generation=1, now=NOW)
    volume = Volume(
        name="v", role=VolumeRole.ACTIVE, path="/v", format=VolumeFormat.QCOW2, extensions=extensions, size_bytes=copied
    )
    side = Side(storage_domain_name="a", type=StorageType.FILE, volumes=(volume,))
    whole = {"phase": Phase.REPLICATING, "conditions": (said,), "source": side, **changes}
    return DiskMigrationStatus(progress=Progress(copied_bytes=copied, total_bytes=TIB), **whole)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (status(), Change.NONE),
        (status(copied=1), Change.FIGURES),
        (status(extensions=1), Change.FIGURES),
        (status(last_progress_time=NOW), Change.FIGURES),
        (status(message="waits"), Change.TEXT),
        (status(attempts=2), Change.TEXT),
        (status(phase=Phase.PIVOTING), Change.STATE),
        (status(phase=Phase.PIVOTING, copied=1), Change.STATE),
        (status(conditions=()), Change.STATE),
    ],
)
def test_what_differs_is_told_apart(wanted: DiskMigrationStatus, expected: Change) -> None:
    assert change(status(), wanted) is expected


@pytest.mark.parametrize(
    ("wanted", "age", "expected"),
    [
        (status(message="waits"), 5, TEXT_SECONDS),
        (status(message="waits"), 11, 2.2),
        (status(message="waits"), 500, LAST_TEXT_SECONDS),
        (status(copied=1), 5, TEXT_SECONDS),
        (status(copied=1), 11, FIGURES_SECONDS),
        (status(copied=TIB // 100), 11, FIGURES_SECONDS),
        (status(copied=TIB // 90), 11, 2.2),
        (status(copied=TIB // 90), 500, FIGURES_SECONDS),
    ],
)
def test_what_happens_is_written_soon_and_figures_seldom(
    wanted: DiskMigrationStatus, age: float, expected: float
) -> None:
    assert interval(status(), wanted, age_seconds=age) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("phase", "since", "changed_at", "written_at", "expected"),
    [
        (Phase.REPLICATING, 10.0, 10.0, 0.0, 10.0 + STATE_SECONDS),
        (Phase.REPLICATING, 10.0, 10.5, 0.0, 10.5 + STATE_SECONDS),
        (Phase.REPLICATING, 10.0, 10.9, 0.0, 10.0 + LAST_STATE_SECONDS),
        (Phase.REPLICATING, 10.0, 10.0, 9.9, 9.9 + APART_SECONDS),
        (Phase.SUCCEEDED, 10.0, 10.9, 10.8, 10.9),
        (Phase.FAILED, 10.0, 10.0, 9.9, 10.0),
    ],
)
def test_a_phase_is_written_once_it_lasts(
    phase: Phase, since: float, changed_at: float, written_at: float, expected: float
) -> None:
    due_at = state_is_due_at(status(phase=phase), since=since, changed_at=changed_at, written_at=written_at)
    assert due_at == pytest.approx(expected)


def test_figures_of_all_migrations_share_a_budget() -> None:
    step, seconds = 0.01, 60.0
    budget, writes = Budget(FIGURES_PER_SECOND, FIGURES_PER_SECOND, 0.0), 0
    for number in range(round(seconds / step)):
        now = number * step
        if budget.ready_at(now) <= now:
            budget, writes = budget.spent(now), writes + 1
    assert seconds * FIGURES_PER_SECOND - 1 <= writes <= (seconds + 1) * FIGURES_PER_SECOND


def test_an_unused_budget_is_not_saved_for_ever() -> None:
    assert Budget(2.0, 0.0, 0.0).refilled(1000.0).left == 2.0


@pytest.mark.parametrize(
    ("seen", "written", "expected"),
    [
        ("9", "10", True),
        ("10", "10", True),
        ("11", "10", False),
        ("", "10", False),
        ("x", "x", True),
        ("x", "y", False),
    ],
)
def test_an_echo_is_what_was_written_or_older(seen: str, written: str, expected: bool) -> None:
    assert is_echo(seen, written) is expected
