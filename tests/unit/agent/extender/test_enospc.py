"""Which guests wait for room in their storage domain, which need only a retry, and when a guest is resumed."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender.enospc import (
    BACKOFF,
    RAN_SECONDS,
    DiskRoom,
    Relief,
    Resumes,
    relief_for,
    rooms_of,
)
from diskmigration.agent.extender.thin_disk import OpenVolume, ThinDisk
from diskmigration.agent.extender.watermark import Policy, ThinVolume, largest_useful_size
from diskmigration.agent.hypervisor.domain_xml import DomainDisk, Layer
from diskmigration.api.errors import MigrationError, Reason

MIB = 2**20
CAPACITY = 1024 * MIB


@dataclass
class Places:
    """Two storage domains, each of which is full or not, and what lies in neither."""

    full: frozenset[str] = frozenset()

    def locate_in_any(self, path: Path) -> Any:
        name = path.parent.name
        if name not in ("a", "b"):
            return None
        driver = SimpleNamespace(is_full=lambda _volume: name in self.full)
        return SimpleNamespace(name=name, driver=driver), path.name


def disk(target: str, path: str) -> DomainDisk:
    layer = Layer(type="file", path=path, format="qcow2", index=1, has_special_access=False)
    return DomainDisk(
        target=target,
        device="disk",
        type="file",
        chain=(layer,),
        chain_is_known=True,
        mirror=None,
        readonly=False,
        shareable=False,
        transient=False,
        cache="",
        io="",
        alias="",
    )


def thin(target: str, path: str, physical: int) -> ThinDisk:
    sizes = ThinVolume(path, 0, physical, CAPACITY, Policy(high_watermark=MIB, chunk=MIB))
    # It is not looked at for what is not thin.
    nothing: Any = None
    return ThinDisk(target, OpenVolume(nothing, nothing, target, sizes), None, is_copy=False)


def rooms(places: Places, *disks: DomainDisk) -> tuple[DiskRoom, ...]:
    found: Any = places
    return rooms_of(disks, found)


def test_a_guest_waits_for_room_in_its_own_domain() -> None:
    found = rooms(Places(frozenset({"a"})), disk("vda", "/srv/a/1"), disk("vdb", "/srv/b/2"))
    assert found == (DiskRoom("vda", "/srv/a/1", "a", is_full=True), DiskRoom("vdb", "/srv/b/2", "b", is_full=False))
    assert relief_for(found, ()) == Relief(waiting=frozenset({"vda"}), ready=frozenset({"vdb"}))


@pytest.mark.parametrize(
    ("physical", "ready"), [(64 * MIB, frozenset()), (largest_useful_size(CAPACITY), frozenset({"vda"}))]
)
def test_a_volume_that_can_grow_has_to_grow_first(physical: int, ready: frozenset[str]) -> None:
    found = rooms(Places(), disk("vda", "/srv/a/1"))
    assert relief_for(found, (thin("vda", "/srv/a/1", physical),)) == Relief(ready=ready)


def test_a_disk_in_no_storage_domain_is_somebody_elses() -> None:
    assert rooms(Places(frozenset({"a"})), disk("vda", "/elsewhere/1")) == ()


def test_a_storage_domain_that_cannot_tell_is_asked_again_later() -> None:
    broken: Any = SimpleNamespace(locate_in_any=fail)
    assert rooms_of([disk("vda", "/srv/a/1")], broken) == ()


def fail(_path: Path) -> None:
    raise MigrationError(Reason.STORAGE_FAILED, "It does not answer.")


targets = st.sampled_from(["vda", "vdb", "vdc"])
any_rooms = st.lists(st.builds(DiskRoom, targets, st.just("/srv/a/1"), st.just("a"), st.booleans()), max_size=3)
any_thin = st.lists(
    st.builds(thin, targets, st.just("/srv/a/1"), st.sampled_from([MIB, 2 * largest_useful_size(CAPACITY)])), max_size=3
)


@given(any_rooms, any_thin)
def test_a_disk_is_ready_only_if_there_is_room_and_it_cannot_grow(found: list[DiskRoom], disks: list[ThinDisk]) -> None:
    relief = relief_for(found, disks)
    growing = {one.target for one in disks if one.active is not None and one.active.thin.physical == MIB}
    assert relief.waiting == {room.target for room in found if room.is_full}
    assert relief.ready == {room.target for room in found if not room.is_full} - growing


OBSERVED_EVERY_SECONDS = 0.01


def times_in(seconds: float, *, runs_for: float, has_grown: bool = False) -> list[float]:
    """When a guest is resumed that is observed all the time, and meets the end so long after each resume."""
    found: list[float] = []
    state, now, pauses_at = Resumes(), 0.0, 0.0
    while now < seconds:
        if now >= pauses_at:
            state = state.paused(now)
            if state.may_resume(now):
                state = state.resumed(now, has_grown=has_grown)
                found.append(now)
                pauses_at = now + runs_for
        now += OBSERVED_EVERY_SECONDS
    return found


def test_a_guest_that_meets_the_end_at_once_is_resumed_ever_more_rarely() -> None:
    times = [round(at) for at in times_in(300.0, runs_for=0.0)]
    assert times == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_guest_whose_volume_has_grown_is_resumed_at_once() -> None:
    assert len(times_in(1.0, runs_for=0.1, has_grown=True)) == 10


def test_a_guest_that_ran_for_a_while_is_resumed_at_once() -> None:
    times = times_in(10 * RAN_SECONDS, runs_for=RAN_SECONDS)
    assert len(times) == 10


def test_waiting_for_room_is_not_running() -> None:
    state = Resumes()
    for at in (0.0, 1.0, 3.0):
        state = state.paused(at).resumed(at, has_grown=False)
    state = state.paused(3.1)
    assert not state.may_resume(6.0)
    assert state.paused(3.1 + 100 * RAN_SECONDS) == state


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans())))
def test_nobody_waits_longer_than_the_longest_delay(pauses: list[tuple[float, bool]]) -> None:
    state, now = Resumes(), 0.0
    for ran, has_grown in pauses:
        now += ran
        state = state.paused(now)
        assert 0.0 <= state.delay_seconds <= BACKOFF.longest_seconds
        now += state.delay_seconds
        assert state.may_resume(now)
        state = state.resumed(now, has_grown=has_grown)
