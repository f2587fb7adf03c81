from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.controller.queueing import FairQueue, Lane, Ticket, is_position_worth_writing
from tests.unit.controller.builders import EPOCH

NAMESPACES = ("red", "green", "blue")
LANES: tuple[Lane, ...] = (("a", "b"), ("b", "c"), ("d", "e"))


def ticket(number: int, namespace: str = "red", *, age: int = 0, lane: Lane = ("a", "b")) -> Ticket:
    return Ticket(EPOCH - timedelta(seconds=age), f"uid-{number:04}", namespace, f"{namespace}/{number}", lane)


tickets = st.lists(st.tuples(st.sampled_from(NAMESPACES), st.integers(0, 20), st.sampled_from(LANES)), max_size=30).map(
    lambda found: [ticket(i, namespace, age=age, lane=lane) for i, (namespace, age, lane) in enumerate(found)]
)


def drain(queue: FairQueue) -> list[Ticket]:
    taken = []
    while (chosen := queue.take(lambda _source, _destination: True)) is not None:
        taken.append(chosen)
    return taken


def test_one_namespaces_thousand_does_not_starve_anothers_one() -> None:
    queue = FairQueue()
    for number in range(1000):
        queue.add(ticket(number, "many", age=5000 - number))
    queue.add(ticket(2000, "few", age=0))
    served = [chosen.namespace for chosen in drain(queue)[:2]]
    assert served == ["many", "few"]


def test_a_full_domain_holds_up_no_other() -> None:
    queue = FairQueue()
    queue.add(ticket(1, age=100, lane=("full", "b")))
    queue.add(ticket(2, age=1, lane=("c", "d")))
    chosen = queue.take(lambda source, destination: "full" not in (source, destination))
    assert chosen is not None
    assert chosen.key == "red/2"
    assert queue.take(lambda source, destination: "full" not in (source, destination)) is None
    assert len(queue) == 1


@given(tickets)
def test_everybody_is_served_once_and_each_namespace_oldest_first_within_a_lane(found: list[Ticket]) -> None:
    queue = FairQueue()
    for one in found:
        queue.add(one)
    served = drain(queue)
    assert sorted(served) == sorted(found)
    assert len(queue) == 0
    for lane in LANES:
        for namespace in NAMESPACES:
            of_both = [one for one in served if one.namespace == namespace and one.lane == lane]
            assert of_both == sorted(of_both)


@given(tickets)
def test_no_namespace_waits_for_longer_than_one_turn_of_each_other(found: list[Ticket]) -> None:
    queue = FairQueue()
    for one in found:
        queue.add(one)
    served = [one.namespace for one in drain(queue)]
    for place, namespace in enumerate(served):
        later = served[place + 1 :]
        if namespace in later:
            between = later[: later.index(namespace)]
            still_waiting = {other for other in later if other != namespace}
            assert still_waiting <= set(between)


@given(tickets, st.integers(0, 5))
def test_positions_in_a_lane_are_the_order_in_which_it_is_served(found: list[Ticket], served_before: int) -> None:
    queue = FairQueue()
    for one in found:
        queue.add(Ticket(one.created, one.uid, one.namespace, one.key, ("a", "b")))
    for _ in range(served_before):
        queue.take(lambda _source, _destination: True)
    said = queue.positions()
    assert {uid: queue.position(uid) for uid in said} == said
    assert [one.uid for one in drain(queue)] == sorted(said, key=lambda uid: said[uid])


@given(tickets, st.data())
def test_removing_and_adding_in_between_loses_and_invents_nobody(found: list[Ticket], data: st.DataObject) -> None:
    queue = FairQueue()
    waiting: dict[str, Ticket] = {}
    for one in found:
        queue.add(one)
        waiting[one.uid] = one
        act = data.draw(st.sampled_from(["keep", "remove", "take", "again"]))
        if act == "remove" and waiting:
            uid = data.draw(st.sampled_from(sorted(waiting)))
            queue.remove(uid)
            del waiting[uid]
        elif act == "take":
            chosen = queue.take(lambda _source, _destination: True)
            assert chosen is not None
            del waiting[chosen.uid]
        elif act == "again":
            queue.add(one)
        assert set(queue.positions()) == set(waiting)
        assert all((uid in queue) for uid in waiting)
    assert {one.uid for one in drain(queue)} == set(waiting)


def test_a_migration_whose_disk_moved_changes_its_lane() -> None:
    queue = FairQueue()
    queue.add(ticket(1, lane=("a", "b")))
    queue.add(ticket(1, lane=("c", "b")))
    assert [one.lane for one in drain(queue)] == [("c", "b")]


@given(st.integers(1, 100_000))
def test_a_position_is_written_a_logarithmic_number_of_times(start: int) -> None:
    published, writes = start, 0
    for actual in range(start, 0, -1):
        if is_position_worth_writing(published, actual):
            published, writes = actual, writes + 1
        assert actual <= published <= max(2 * actual, 10)
    assert writes <= start.bit_length() + 10


@pytest.mark.parametrize(("published", "actual"), [(None, 5000), (3, 2), (9, 10)])
def test_a_position_near_the_head_or_not_yet_published_is_written(published: int | None, actual: int) -> None:
    assert is_position_worth_writing(published, actual)
