from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.migration.orphans import (
    AtWork,
    orphans_among,
    volumes_of,
)
from diskmigration.agent.storage.driver import Leftover
from tests.unit.agent.builders import UID, journal

uids = st.sampled_from(["", "a", "b", "c"])
leftovers = st.lists(st.builds(Leftover, volume=st.sampled_from(["v", "w"]), migration=uids, size_bytes=st.just(1)))


@given(found=leftovers, migrations=st.frozensets(uids), volumes=st.frozensets(st.sampled_from(["v", "w"])))
def test_what_anybody_works_on_is_no_orphan(
    found: list[Leftover], migrations: frozenset[str], volumes: frozenset[str]
) -> None:
    at_work = AtWork(migrations, frozenset(("san", volume) for volume in volumes))
    orphans = orphans_among("san", found, at_work)
    assert all(one.migration not in migrations and one.volume not in volumes for one in orphans)
    assert all(one in orphans or one.migration in migrations or one.volume in volumes for one in found)


def test_a_volume_of_the_same_name_in_another_domain_is_another_volume() -> None:
    found = [Leftover("v", "gone", 1)]
    assert orphans_among("san", found, AtWork(frozenset(), frozenset({("nfs", "v")}))) == tuple(found)


def test_a_users_volume_that_a_migration_is_removing_is_no_orphan() -> None:
    """It carries no uid, as it was not made by a migration: its journal alone tells."""
    moving = journal(length=2)
    at_work = AtWork(frozenset({UID}), volumes_of(moving))
    found = [Leftover("layer-0", "", 1), Leftover("layer-1", "", 1), Leftover("layer-2", "", 1)]
    assert orphans_among("nfs", found, at_work) == (found[2],)


def test_a_journal_names_the_volumes_of_both_sides() -> None:
    assert volumes_of(journal(length=2)) == {
        ("nfs", "layer-0"),
        ("nfs", "layer-1"),
        ("nfs", f"dm-{UID}-snapshot"),
        ("san", f"dm-{UID}-0"),
        ("san", f"dm-{UID}-1"),
        ("san", f"dm-{UID}-overlay"),
    }
    assert volumes_of(journal(strategy="Direct")) == {("nfs", "layer-0"), ("san", f"dm-{UID}-0")}
