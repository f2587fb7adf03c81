"""What a node writes of its migrations, over simulated time: little, the newest, and nothing because of an echo."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from diskmigration.agent.status_pacing import APART_SECONDS, FIGURES_PER_SECOND, Change, change
from diskmigration.agent.status_queue import Entry, StatusQueue
from diskmigration.api.conditions import condition
from diskmigration.api.disk_migration import DiskMigration, DiskMigrationStatus, Phase, Progress
from tests.unit.agent.builders import EPOCH, GIB, migration

STEP_SECONDS = 0.1
LOOK_SECONDS = 1.0
OPERATORS_REQUESTS = 4
"""It adds and removes its finalizer, writes the status Scheduled and records the Event: see test_requests.py."""
TOTAL = 1000 * GIB
UID = "uid"


def status(phase: Phase, copied: int, message: str = "") -> DiskMigrationStatus:
    ready = condition((), "Ready", False, reason=phase.value, message=message, generation=1, now=EPOCH)
    return DiskMigrationStatus(
        phase=phase, conditions=(ready,), progress=Progress(copied_bytes=copied, total_bytes=TOTAL)
    )


def move(phases: list[tuple[Phase, float]], shares: list[int]) -> Iterator[tuple[float, DiskMigrationStatus]]:
    """Yield the status at each moment of a move; the copy is as fast as the shares say, one after the other."""
    now, copied = 0.0, 0.0
    for phase, seconds in phases:
        # As often as a worker looks at a block job.
        step = LOOK_SECONDS if phase is Phase.REPLICATING and seconds > LOOK_SECONDS else STEP_SECONDS
        steps = max(1, round(seconds / step))
        for number in range(steps):
            if phase is Phase.REPLICATING:
                share = shares[number * len(shares) // steps] / max(1, sum(shares))
                copied += TOTAL * share * len(shares) / steps
            yield now, status(phase, min(TOTAL, round(copied)), message_of(phase, number, steps))
            now += step


def message_of(phase: Phase, number: int, steps: int) -> str:
    """Return what the status says: another step may follow in the same phase, and a merge tells how far it is."""
    if phase.is_final:
        return "It ended."
    if phase is Phase.MERGING:
        return f"Merging a into b since 2026-01-01T00:00:00Z: {100 * number // steps} %."
    return f"{'Starting' if number == 0 else 'Going on with'} {phase} since 2026-01-01T00:00:00Z."


def seen(of: DiskMigration, version: int, shown: DiskMigrationStatus) -> DiskMigration:
    metadata = of.metadata.model_copy(update={"resource_version": str(version)})
    return of.model_copy(update={"metadata": metadata, "status": shown})


@dataclass
class Server:
    """Takes every write at once, and gives it a version."""

    version: int = 100
    writes: list[DiskMigrationStatus] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def take(self, queue: StatusQueue, entry: Entry, now: float) -> None:
        written = entry.desired
        self.version += 1
        self.writes.append(written)
        queue.end(entry, written, now, version=str(self.version))
        self.events += [happening.reason for happening in entry.happenings(written)]


def phases(copy_seconds: float, others: list[float]) -> list[tuple[Phase, float]]:
    first, second, third, fourth, fifth, sixth = others
    return [
        (Phase.SNAPSHOTTING, first),
        (Phase.PREPARING_DESTINATION, second),
        (Phase.COPYING_CHAIN, third),
        (Phase.REPLICATING, copy_seconds),
        (Phase.PIVOTING, fourth),
        (Phase.MERGING, fifth),
        (Phase.CLEANING_UP, sixth),
        (Phase.SUCCEEDED, 1.0),
    ]


@settings(max_examples=8, deadline=None)
@given(
    others=st.lists(st.floats(0.1, 3.0), min_size=6, max_size=6),
    shares=st.lists(st.integers(0, 1000), min_size=1, max_size=50),
    lag=st.integers(0, 40),
)
@example(others=[0.4] * 6, shares=[1], lag=5)
@example(others=[1.5] * 6, shares=[1], lag=0)
@example(others=[3.0] * 6, shares=[1000, 0], lag=40)
def test_a_move_of_510_seconds_takes_60_requests_at_most(others: list[float], shares: list[int], lag: int) -> None:
    queue, server, of = StatusQueue(0.0), Server(), migration(uid=UID)
    echoes: list[DiskMigration] = []
    for now, shown in move(phases(510.0 - sum(others), others), shares):
        queue.want(of, shown, now)
        if (entry := queue.begin(now)) is not None:
            server.take(queue, entry, now)
            echoes.append(seen(of, server.version, entry.desired))
        # The watch tells of each write so many writes later.
        queue.compare(echoes[max(0, len(echoes) - 1 - lag)])

    assert queue.is_settled(UID)
    assert server.writes[-1].phase is Phase.SUCCEEDED
    assert all(before != after for before, after in zip(server.writes, server.writes[1:], strict=False))
    assert server.events == ["Succeeded"]
    # Pivoted is recorded too: the time of the pivot is not simulated.
    assert len(server.writes) + len(server.events) + 1 + OPERATORS_REQUESTS <= 60


@settings(deadline=None)
@given(others=st.lists(st.floats(0.0, 0.6), min_size=6, max_size=6), copy_seconds=st.floats(0.0, 1.0))
@example(others=[0.3] * 6, copy_seconds=0.3)
def test_a_move_of_two_seconds_takes_four_statuses_at_most(others: list[float], copy_seconds: float) -> None:
    queue, server, of = StatusQueue(0.0), Server(), migration(uid=UID)
    ended_at = 0.0
    for now, shown in move(phases(copy_seconds, others), [1]):
        queue.want(of, shown, now)
        if (entry := queue.begin(now)) is not None:
            server.take(queue, entry, now)
            ended_at = now
    assert server.writes[-1].phase is Phase.SUCCEEDED
    assert len(server.writes) <= 2 + ended_at / APART_SECONDS


def test_the_figures_of_many_migrations_share_a_budget_and_none_starves() -> None:
    seconds, count = 20.0, 8
    queue, server = StatusQueue(0.0), Server()
    of = {f"uid-{number}": migration(uid=f"uid-{number}") for number in range(count)}
    figures: dict[str, int] = dict.fromkeys(of, 0)
    for number in range(round(seconds / STEP_SECONDS)):
        now = number * STEP_SECONDS
        for each in of.values():
            queue.want(each, status(Phase.REPLICATING, number * GIB), now)
        while (entry := queue.begin(now)) is not None:
            if change(entry.written, entry.desired) is Change.FIGURES:
                figures[entry.migration.metadata.uid] += 1
            server.take(queue, entry, now)
    assert sum(figures.values()) <= (seconds + 1) * FIGURES_PER_SECOND
    assert max(figures.values()) - min(figures.values()) <= 1


@given(st.lists(st.integers(90, 120), max_size=20), st.booleans())
def test_late_echoes_are_no_edits(versions: list[int], is_during_write: bool) -> None:
    queue, server, of = StatusQueue(0.0), Server(version=118), migration(uid=UID)
    old = status(Phase.SNAPSHOTTING, 0)
    queue.want(of, old, 0.0)
    entry = queue.begin(0.0)
    assert entry is not None
    server.take(queue, entry, 0.0)
    queue.want(of, status(Phase.REPLICATING, 0), 1.0)
    entry = queue.begin(2.0)
    assert entry is not None
    if not is_during_write:
        server.take(queue, entry, 2.0)
    for version in versions:
        queue.compare(seen(of, version, old))
    if is_during_write:
        server.take(queue, entry, 2.0)
    assert server.version == 120
    assert queue.is_settled(UID)


def test_an_edit_is_written_over_but_not_as_often_as_it_is_made() -> None:
    queue, server, of = StatusQueue(0.0), Server(), migration(uid=UID)
    queue.want(of, status(Phase.REPLICATING, 0), 0.0)
    for number in range(100):
        now = number * STEP_SECONDS
        if (entry := queue.begin(now)) is not None:
            server.take(queue, entry, now)
        # Whoever edits it sees each write at once.
        server.version += 1
        queue.compare(seen(of, server.version, status(Phase.PENDING, 0)))
        assert not queue.is_settled(UID)
    assert 9 <= len(server.writes) <= 11


def test_a_write_that_fails_is_made_again_with_the_newest_status() -> None:
    queue, server, of = StatusQueue(0.0), Server(), migration(uid=UID)
    queue.want(of, status(Phase.REPLICATING, 0), 0.0)
    entry = queue.begin(0.0)
    assert entry is not None
    queue.want(of, status(Phase.SUCCEEDED, 0), 0.1)
    queue.end(entry, status(Phase.REPLICATING, 0), 0.2, retry_seconds=3.0)
    assert queue.begin(3.0) is None
    assert queue.due_at(3.0) == 3.2
    entry = queue.begin(3.2)
    assert entry is not None
    server.take(queue, entry, 3.2)
    assert [written.phase for written in server.writes] == [Phase.SUCCEEDED]
    assert queue.is_settled(UID)


def test_phases_that_pass_are_not_written() -> None:
    queue, server, of = StatusQueue(0.0), Server(), migration(uid=UID)
    for now, shown in move(phases(0.1, [0.1] * 6), [1]):
        queue.want(of, shown, now)
        if (entry := queue.begin(now)) is not None:
            server.take(queue, entry, now)
    assert [written.phase for written in server.writes] == [Phase.SNAPSHOTTING, Phase.SUCCEEDED]
