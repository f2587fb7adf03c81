"""The Lease that says which operator leads, against the real API server, with clocks that pass when told."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from diskmigration.api import names
from diskmigration.cluster import resources
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterUnavailableError
from diskmigration.cluster.leadership import Leadership, Terms
from testbed.control_plane import ControlPlane
from tests.integration.controller.world import World

TERMS = Terms(duration_seconds=15, renew_deadline_seconds=10, retry_seconds=2)

Candidates = Callable[..., Leadership]


class Clock:
    """One that every candidate has; monotonic clocks run alike."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def candidates(admin: Cluster, world: World, clock: Clock) -> Iterator[Candidates]:
    name = world.name("lease")

    def make(identity: str, terms: Terms = TERMS) -> Leadership:
        return Leadership(
            admin, namespace=names.SYSTEM_NAMESPACE, name=name, identity=identity, terms=terms, clock=clock
        )

    yield make
    found = admin.get(resources.LEASES, name, names.SYSTEM_NAMESPACE)
    if found is not None:
        admin.delete(resources.LEASES, name, names.SYSTEM_NAMESPACE, uid=found["metadata"]["uid"])


def spec(admin: Cluster, world: World) -> dict[str, object]:
    found = admin.get(resources.LEASES, world.name("lease"), names.SYSTEM_NAMESPACE)
    assert found is not None
    told: dict[str, object] = found["spec"]
    return told


def test_a_lease_that_nobody_holds_is_taken_at_once(candidates: Candidates, admin: Cluster, world: World) -> None:
    one = candidates("one")
    assert not one.holds()
    assert one.attempt()
    assert one.holds()
    told = spec(admin, world)
    assert (told["holderIdentity"], told["leaseDurationSeconds"], told["leaseTransitions"]) == ("one", 15, 1)


def test_a_duration_is_written_upwards(candidates: Candidates, admin: Cluster, world: World) -> None:
    candidates("one", Terms(duration_seconds=1.4, renew_deadline_seconds=1.2, retry_seconds=0.1)).attempt()
    assert spec(admin, world)["leaseDurationSeconds"] == 2


def test_another_waits_for_as_long_as_nothing_changed_while_it_looked(candidates: Candidates, clock: Clock) -> None:
    one, two = candidates("one"), candidates("two")
    assert one.attempt()
    assert not two.attempt()
    clock.now += 14
    assert one.attempt()
    assert not two.attempt()
    clock.now += 14.9
    assert not two.attempt()
    clock.now += 0.1
    assert two.attempt()
    assert two.holds()


def test_the_leader_gives_up_before_another_may_take_over(candidates: Candidates, clock: Clock) -> None:
    one, two = candidates("one"), candidates("two")
    assert one.attempt()
    assert not two.attempt()
    clock.now += 10
    assert not one.holds()
    assert not two.attempt()


def test_one_that_has_lost_it_never_leads_again(candidates: Candidates, clock: Clock) -> None:
    one, two = candidates("one"), candidates("two")
    assert one.attempt()
    two.attempt()
    clock.now += 15
    assert two.attempt()
    assert not one.attempt()
    two.release()
    assert not one.attempt()
    assert not one.holds()


def test_what_is_given_back_is_taken_at_once(
    candidates: Candidates, clock: Clock, admin: Cluster, world: World
) -> None:
    one, two = candidates("one"), candidates("two")
    assert one.attempt()
    assert not two.attempt()
    one.release()
    assert not one.holds()
    assert not one.attempt()
    assert two.attempt()
    assert spec(admin, world)["holderIdentity"] == "two"


def test_one_that_never_led_has_nothing_to_give_back(candidates: Candidates, admin: Cluster, world: World) -> None:
    one, two = candidates("one"), candidates("two")
    assert one.attempt()
    assert not two.attempt()
    two.release()
    assert spec(admin, world)["holderIdentity"] == "one"
    assert one.attempt()


def test_one_that_was_told_to_end_takes_nothing_any_more(candidates: Candidates) -> None:
    one, two = candidates("one"), candidates("two")
    one.release()
    assert not one.attempt()
    assert two.attempt()


def test_of_many_that_try_at_once_one_leads(candidates: Candidates, clock: Clock) -> None:
    many = [candidates(f"candidate-{number}") for number in range(8)]
    for _ in range(2):
        with ThreadPoolExecutor(len(many)) as threads:
            won = list(threads.map(Leadership.attempt, many))
        assert won.count(True) == 1
        # The first has led, and is not to lead again.
        many.pop(won.index(True))
        for one in many:
            assert not one.attempt()
        clock.now += 15


def test_who_labels_the_lease_takes_it_from_nobody(
    candidates: Candidates, admin: Cluster, world: World, control_plane: ControlPlane
) -> None:
    one = candidates("one")
    assert one.attempt()
    control_plane.kubectl(
        "label", "lease", world.name("lease"), f"--namespace={names.SYSTEM_NAMESPACE}", "looked-at=yes"
    )
    assert one.attempt()
    found = admin.get(resources.LEASES, world.name("lease"), names.SYSTEM_NAMESPACE)
    assert found is not None
    assert found["metadata"]["labels"] == {"looked-at": "yes"}
    assert found["spec"]["leaseTransitions"] == 1


def test_nothing_is_written_by_who_leads_no_more(
    candidates: Candidates, clock: Clock, admin: Cluster, world: World
) -> None:
    one = candidates("one")
    fenced = admin.fenced(one.holds)
    with pytest.raises(ClusterUnavailableError, match="another operator may lead"):
        fenced.apply(names.STORAGE_DOMAINS, world.name("d"), {}, field_manager="test")
    assert one.attempt()
    metadata = world.migrate("m", "vm", suspend=True).body()["metadata"]  # type: ignore[index]  # it was just made
    write = {"namespace": metadata["namespace"], "uid": metadata["uid"], "field_manager": "test"}
    assert (
        fenced.apply_status(names.DISK_MIGRATIONS, "m", {"phase": "Pending"}, **write)["status"]["phase"] == "Pending"
    )
    clock.now += 10
    with pytest.raises(ClusterUnavailableError, match="another operator may lead"):
        fenced.apply_status(names.DISK_MIGRATIONS, "m", {"phase": "Failed"}, **write)
    # It may still look.
    found = fenced.get(names.DISK_MIGRATIONS, "m", metadata["namespace"])
    assert found is not None
    assert found["status"]["phase"] == "Pending"


def test_kubectl_reads_the_lease_as_any_other(
    candidates: Candidates, world: World, control_plane: ControlPlane
) -> None:
    candidates("one").attempt()
    shown = json.loads(
        control_plane.kubectl(
            "get", "lease", world.name("lease"), f"--namespace={names.SYSTEM_NAMESPACE}", "--output=json"
        )
    )["spec"]
    assert shown["acquireTime"] == shown["renewTime"]
