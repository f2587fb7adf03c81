"""spec.minAvailable: the operator that places a migration and the agent that begins it judge the same."""

from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.migration.checks.room import require_room_above_floor
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import Space, StorageDriver
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.controller.placement import Surroundings, place
from diskmigration.controller.placement_outcome import Outcome, Placement, Refusal
from diskmigration.controller.records import read_domain
from tests.unit.controller.builders import GIB, disk, domain_body, host_body, inventory, machine, migration, report

CAPACITY = 100 * GIB


@dataclass
class Storage:
    """The part of a driver that the check asks."""

    available: int

    def space(self) -> Space:
        return Space(capacity_bytes=CAPACITY, available_bytes=self.available)


def destination(floor: Any) -> dict[str, Any]:
    body = domain_body("b")
    if floor is not None:
        body["spec"]["minAvailable"] = floor
    return body


def operators_outcome(floor: Any, available: int, needed: int) -> Outcome:
    there = {**report("b", available=available), "capacityBytes": CAPACITY}
    vm = machine("web-1", disks=[disk(allocated=needed)])
    around = Surroundings(
        inventory=inventory([host_body("n1", [vm], [report("a"), there])], [domain_body("a"), destination(floor)]),
        system_namespace="system",
        blocked_by=lambda _keys: None,
        reserved_bytes=lambda _domain, _node: 0,
    )
    spec = migration().spec
    assert spec is not None
    return place("vms", spec, around)


def agents_refusal(floor: Any, available: int, needed: int, *, already: int = 0) -> MigrationError | None:
    domain = read_domain(destination(floor)).domain
    assert domain is not None
    side = OpenDomain(domain, cast("StorageDriver", Storage(available)))
    try:
        require_room_above_floor(subject="The disk vda", destination=side, needed=needed, already=already)
    except MigrationError as error:
        return error
    return None


sizes = st.integers(0, CAPACITY)
floors = st.one_of(st.none(), st.integers(1, 2 * CAPACITY), st.integers(1, 99).map(lambda percent: f"{percent}%"))


@given(floors, sizes, sizes)
def test_both_judge_the_same(floor: Any, available: int, needed: int) -> None:
    refusal = agents_refusal(floor, available, needed)
    outcome = operators_outcome(floor, available, needed)
    kept = destination_floor(floor)
    if needed <= available - kept:
        assert refusal is None
        assert isinstance(outcome, Placement)
    elif needed or kept:
        assert refusal is not None
        assert refusal.reason is Reason.DESTINATION_FULL
        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.DESTINATION_FULL


def destination_floor(floor: Any) -> int:
    domain = read_domain(destination(floor)).domain
    assert domain is not None
    return domain.spec.available_floor.of(CAPACITY)


@pytest.mark.parametrize(("floor", "named"), [("20%", "20%"), ("20Gi", "20.0Gi")])
def test_both_name_the_floor(floor: str, named: str) -> None:
    outcome = operators_outcome(floor, 21 * GIB, 2 * GIB)
    refusal = agents_refusal(floor, 21 * GIB, 2 * GIB)
    assert isinstance(outcome, Refusal)
    assert refusal is not None
    for message in (outcome.message, refusal.message):
        assert f"20.0Gi have to stay free (spec.minAvailable: {named})" in message
        assert "21.0Gi" in message


def test_what_the_migration_has_taken_itself_is_not_counted_against_it() -> None:
    assert agents_refusal("20%", 20 * GIB, 2 * GIB, already=2 * GIB) is None
    assert agents_refusal("20%", 20 * GIB, 2 * GIB, already=GIB) is not None


def test_without_a_floor_none_is_named() -> None:
    for message in (
        cast("Refusal", operators_outcome(None, GIB, 2 * GIB)).message,
        str(agents_refusal(None, GIB, 2 * GIB)),
    ):
        assert "minAvailable" not in message
