"""What libvirt did not give decides nothing: the volume is left as it is, and so is what was known of it."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.extender import histories
from diskmigration.agent.extender.enospc import DiskRoom, Relief, relief_for
from diskmigration.agent.extender.thin_disk import disk_by_event, thin_disks
from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer, Mirror
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from tests.unit.agent.builders import GIB, MIB
from tests.unit.agent.extender.test_thin_disk import Located

SOURCE = Layer("block", "/dev/source", "qcow2", 1)
MIRROR = Layer("block", "/dev/mirror", "qcow2", 2)
DOMAINS = Located({"source": 64 * MIB, "mirror": 64 * MIB})
ALLOCATED, SIZE = 60 * MIB, 64 * MIB
"""Of both volumes, so that each has to be extended."""
FIELDS = ("allocated_bytes", "capacity_bytes", "physical_bytes", "threshold_bytes")
SIZES = frozenset(FIELDS[:3])

left_out = st.frozensets(st.sampled_from(FIELDS))


def description(*, has_mirror: bool = True) -> DomainDescription:
    mirror = Mirror(MIRROR, "copy", "") if has_mirror else None
    disk = DomainDisk("vda", "disk", "block", (SOURCE,), chain_is_known=True, mirror=mirror)
    return DomainDescription("vm", "uuid", (disk,))


def told(of_source: frozenset[str] = frozenset(), of_mirror: frozenset[str] = frozenset()) -> DomainStatistics:
    """The statistics without these fields of the two volumes."""

    def row(layer: Layer, without: frozenset[str]) -> LayerStatistics:
        nothing: dict[str, Any] = dict.fromkeys(without)
        whole = LayerStatistics("vda", layer.index or 0, layer.path, ALLOCATED, GIB, SIZE, 0)
        return replace(whole, **nothing)

    return DomainStatistics("uuid", 1, (row(SOURCE, of_source), row(MIRROR, of_mirror)))


@given(left_out, left_out)
def test_only_what_is_known_is_extended_and_judged(of_source: frozenset[str], of_mirror: frozenset[str]) -> None:
    [disk] = thin_disks(description(), told(of_source, of_mirror), DOMAINS.locate_open)
    fields = {SOURCE.path: of_source, MIRROR.path: of_mirror}
    known = {path for path, without in fields.items() if not without & SIZES}
    assert {volume.thin.path for volume in disk.volumes} == known
    assert {extension.path for extension in disk.plan()} == known
    assert disk.is_known == (len(known) == len(fields))
    assert histories.implausible(histories.updated({}, disk.volumes, at=0.0, is_whole=disk.is_known)) == frozenset()


@given(left_out, left_out)
def test_an_event_is_not_answered_by_what_is_not_known(of_source: frozenset[str], of_mirror: frozenset[str]) -> None:
    found = disk_by_event(description(), told(of_source, of_mirror), DOMAINS.locate_open, target="vda")
    assert (found is None) == bool((of_source | of_mirror) & SIZES)


def test_what_was_known_of_a_volume_stays_while_nothing_is_told_of_it() -> None:
    [disk] = thin_disks(description(has_mirror=False), told(), DOMAINS.locate_open)
    [active] = disk.volumes
    damaged = replace(active, thin=replace(active.thin, physical=0))
    found: histories.Histories = {}
    for at in (0.0, 1.0):
        found = histories.updated(found, [damaged], at=at, is_whole=True)

    partial = histories.updated(found, [], at=2.0, is_whole=False)
    assert histories.implausible(partial) == {SOURCE.path}
    assert SOURCE.path in histories.lasting_problems(partial)
    whole = histories.updated(found, [], at=2.0, is_whole=True)
    assert (histories.implausible(whole), histories.lasting_problems(whole)) == (frozenset(), {})


def test_the_rate_of_a_volume_is_not_forgotten_while_nothing_is_told_of_it() -> None:
    [disk] = thin_disks(description(has_mirror=False), told(), DOMAINS.locate_open)
    [active] = disk.volumes
    later = replace(active, thin=replace(active.thin, allocated=62 * MIB))
    found = histories.updated({}, [active], at=1.0, is_whole=True)
    found = histories.updated(found, [], at=2.0, is_whole=False)
    found = histories.updated(found, [later], at=3.0, is_whole=True)
    assert histories.full_at(found, disk, now=3.0) < float("inf")
    found = histories.updated(found, [], at=4.0, is_whole=True)
    assert histories.full_at(found, disk, now=4.0) == float("inf")


def test_a_guest_is_not_resumed_on_a_volume_of_which_nothing_is_known() -> None:
    disks = thin_disks(description(has_mirror=False), told(SIZES), DOMAINS.locate_open)
    assert relief_for([DiskRoom("vda", SOURCE.path, "pool", is_full=False)], disks) == Relief()
