"""How often a StorageDomain's status is written, counted over time."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.api.libvirt_host import NodeStorageDomain
from diskmigration.api.storage_domain import StorageDomainStatus
from diskmigration.controller.records import DomainRecord, read_domain
from diskmigration.controller.storage_domain_pacing import COUNTS_SECONDS, FIGURES_SECONDS, interval
from diskmigration.controller.storage_domain_status import DomainUse, status_of
from tests.unit.controller.builders import EPOCH, GIB, domain_body, report

CAPACITY = 1000 * GIB


def look(record: DomainRecord, available: int, *, active: int = 0, ready: bool = True) -> StorageDomainStatus:
    node = NodeStorageDomain.from_wire(report("a", available=available, ready=ready))
    return status_of(record, DomainUse({"n1": node}, active_migrations=active), EPOCH)


def writes(looks: Iterable[tuple[float, int, int]]) -> list[float]:
    """The times of the writes, of looks at (seconds, available bytes, active migrations)."""
    record = read_domain(domain_body("a"))
    written: list[float] = []
    for now, available, active in looks:
        wanted = look(record, available, active=active)
        due = interval(record.status, wanted)
        if due is not None and (not written or now - written[-1] >= due):
            written.append(now)
            record = replace(record, status=wanted)
    return written


@given(st.lists(st.tuples(st.integers(0, CAPACITY), st.integers(0, 4)), min_size=1, max_size=60))
def test_whatever_moves_a_count_costs_a_write_in_ten_seconds_at_most(moves: list[tuple[int, int]]) -> None:
    times = writes([(float(second), available, active) for second, (available, active) in enumerate(moves)])
    assert times[0] == 0
    assert all(later - before >= COUNTS_SECONDS for before, later in pairwise(times))


@given(st.lists(st.integers(0, CAPACITY), min_size=1, max_size=200))
def test_free_space_that_moves_costs_a_write_a_minute_at_most(moves: list[int]) -> None:
    times = writes([(float(second), available, 0) for second, available in enumerate(moves)])
    assert times[0] == 0
    assert all(later - before >= FIGURES_SECONDS for before, later in pairwise(times))


def test_a_guest_that_writes_steadily_costs_as_many_writes_as_it_fills_parts_of_a_hundred() -> None:
    # 100 GiB in an hour, of a storage domain of 1000 GiB.
    steady = [(float(second), CAPACITY // 2 - second * GIB // 36, 0) for second in range(0, 3600, 10)]
    assert 8 <= len(writes(steady)) <= 11


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (500 * GIB, 495 * GIB, None),
        (500 * GIB, 490 * GIB, FIGURES_SECONDS),
        (10 * GIB, 9 * GIB, FIGURES_SECONDS),
        (GIB, 0, FIGURES_SECONDS),
        (0, 1, FIGURES_SECONDS),
        (0, 0, None),
    ],
)
def test_how_far_free_space_has_to_move(before: int, now: int, expected: float | None) -> None:
    record = read_domain(domain_body("a"))
    assert interval(look(record, before), look(record, now)) == expected


def test_facts_are_due_at_once() -> None:
    record = read_domain(domain_body("a"))
    written = look(record, GIB)
    assert interval(StorageDomainStatus(), written) == 0
    assert interval(written, look(record, GIB, ready=False)) == 0
    assert interval(written, look(read_domain(domain_body("a", generation=2)), GIB)) == 0
    assert interval(written, look(read_domain(domain_body("a", kind="lvm")), GIB)) == 0
    assert interval(written, look(record, GIB, active=1)) == COUNTS_SECONDS
