from hypothesis import given
from hypothesis import strategies as st

from diskmigration.api import names
from diskmigration.controller.migration_cache import MigrationCache
from tests.unit.controller.builders import migration_body


def test_what_is_older_than_what_is_known_is_passed_over() -> None:
    old, new = migration_body("m"), migration_body("m", spec={"suspend": True})
    cache = MigrationCache()
    assert cache.observe(new) is not None
    assert cache.observe(old) is None
    assert cache.observe(new) is None
    spec = cache.active["vms/m"].spec
    assert spec is not None
    assert spec.suspend


def test_a_list_made_before_a_deletion_does_not_bring_the_object_back() -> None:
    body = migration_body("m")
    cache = MigrationCache()
    cache.observe(body)
    assert cache.forget("vms/m", body["metadata"]["uid"]) is not None
    assert cache.observe(body) is None
    assert cache.keys() == []


def test_a_list_made_before_an_end_does_not_make_it_active_again() -> None:
    running = migration_body("m", status={"nodeName": "n1", "phase": "Replicating"})
    ended = migration_body("m", status={"nodeName": "n1", "phase": "Succeeded"})
    cache = MigrationCache()
    cache.observe(ended)
    assert cache.observe(running) is None
    assert cache.active == {}


def test_an_object_made_anew_under_its_name_replaces_the_one_before() -> None:
    first, second = migration_body("m", uid="one"), migration_body("m", uid="two")
    cache = MigrationCache()
    cache.observe(first)
    change = cache.observe(second)
    assert change is not None
    assert (change.uid, change.replaced_uid) == ("two", "one")
    assert cache.forget("vms/m", "one") is None
    assert cache.uid_of("vms/m") == "two"


def test_of_what_has_ended_only_what_has_something_left_to_do_is_kept() -> None:
    cache = MigrationCache()
    ended = {"phase": "Succeeded", "completionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    cache.observe(migration_body("nothing", status=ended))
    cache.observe(migration_body("ttl", status=ended, spec={"ttlSecondsAfterFinished": 60}))
    cache.observe(migration_body("held", status=ended, finalizers=(names.FINALIZER,)))
    cache.observe(migration_body("unobserved", status={**ended, "observedGeneration": 0}))
    assert set(cache.finished) == {"vms/ttl", "vms/held", "vms/unobserved"}
    assert [key for key, finished in cache.finished.items() if not finished.is_observed] == ["vms/unobserved"]
    assert cache.active == {}


def test_a_ttl_given_after_the_end_is_taken_in() -> None:
    ended = {"phase": "Succeeded", "completionTime": "2026-01-01T00:00:00Z"}
    cache = MigrationCache()
    cache.observe(migration_body("m", status=ended))
    cache.observe(migration_body("m", status=ended, spec={"ttlSecondsAfterFinished": 60}))
    assert cache.finished["vms/m"].ttl_seconds == 60


@given(st.permutations(range(6)))
def test_in_whatever_order_versions_arrive_the_newest_stays(order: list[int]) -> None:
    versions = [migration_body("m", spec={"activeDeadlineSeconds": number + 1}) for number in range(6)]
    cache = MigrationCache()
    for number in order:
        cache.observe(versions[number])
    spec = cache.active["vms/m"].spec
    assert spec is not None
    assert spec.active_deadline_seconds == 6
