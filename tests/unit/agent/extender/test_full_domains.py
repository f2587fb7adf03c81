"""Which guests wait for room in their storage domain, and which need only be let go on."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.extender.full_domains import FullDomains, Relief
from diskmigration.agent.extender.watched import WatchedDisk, WatchedVolume
from diskmigration.agent.extender.watermark import Policy, ThinVolume, largest_useful_size
from diskmigration.agent.hypervisor.domain_xml import DomainDisk, Layer

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


def watched(target: str, path: str, physical: int) -> WatchedDisk:
    thin = ThinVolume(path, 0, physical, CAPACITY, Policy(high_watermark=MIB, chunk=MIB))
    # It is not looked at for what is not thin.
    nothing: Any = None
    return WatchedDisk(target, WatchedVolume(nothing, nothing, target, thin), None, is_copy=False)


def judged(places: Places, *disks: DomainDisk, watches: tuple[WatchedDisk, ...] = ()) -> tuple[Relief, FullDomains]:
    found: Any = places
    full = FullDomains(found)
    return full.judge("uuid", disks, watches), full


def test_a_guest_waits_for_room_in_its_own_domain() -> None:
    relief, full = judged(Places(frozenset({"a"})), disk("vda", "/srv/a/1"), disk("vdb", "/srv/b/2"))
    assert relief == Relief(waiting=frozenset({"vda"}), ready=frozenset({"vdb"}))
    assert full.awaited_by("/srv/a/1") == "a"
    assert full.awaited_by("/srv/b/2") is None


@pytest.mark.parametrize(
    ("physical", "ready"), [(64 * MIB, frozenset()), (largest_useful_size(CAPACITY), frozenset({"vda"}))]
)
def test_a_volume_that_can_grow_has_to_grow_first(physical: int, ready: frozenset[str]) -> None:
    relief, _ = judged(Places(), disk("vda", "/srv/a/1"), watches=(watched("vda", "/srv/a/1", physical),))
    assert relief == Relief(ready=ready)


def test_a_disk_in_no_storage_domain_is_somebody_elses() -> None:
    assert judged(Places(frozenset({"a"})), disk("vda", "/elsewhere/1"))[0] == Relief()


def test_nobody_waits_any_more_once_it_goes_on_or_has_ended() -> None:
    places: Any = Places(frozenset({"a"}))
    full = FullDomains(places)
    full.judge("uuid", [disk("vda", "/srv/a/1")], [])
    full.judge("other", [disk("vda", "/srv/a/2")], [])
    full.judge("uuid", [], [])
    assert (full.awaited_by("/srv/a/1"), full.awaited_by("/srv/a/2")) == (None, "a")
    full.forget("other")
    assert full.awaited_by("/srv/a/2") is None
