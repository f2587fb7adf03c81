"""Which running VMs have thin volumes in a storage domain."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.api.libvirt_host import VirtualMachine
from diskmigration.api.storage_domain import StorageDomainStatus, StorageDomainUse
from diskmigration.controller.storage_domain_pacing import COUNTS_SECONDS, FIGURES_SECONDS, interval
from diskmigration.controller.thin_volumes import ThinVolumes
from tests.unit.controller.builders import disk, machine

STATES = ("Running", "Paused", "ShutOff", "Crashed", "Suspended", "Unknown")


def machines(*bodies: dict[str, Any]) -> list[VirtualMachine]:
    return [VirtualMachine.from_wire(body) for body in bodies]


def vm(name: str, *, domains: tuple[str, ...] = ("a",), state: str = "Running") -> dict[str, Any]:
    disks = [disk(f"vd{number}", domain=domain, kind="Block") for number, domain in enumerate(domains)]
    return machine(name, state=state, disks=disks)


@pytest.mark.parametrize("state", STATES)
def test_a_vm_that_has_a_process_uses_its_volumes(state: str) -> None:
    made = ThinVolumes()
    made.replace("n1", machines(vm("web-1", state=state)))
    expected = (
        StorageDomainUse() if state == "ShutOff" else StorageDomainUse(thin_volumes=1, virtual_machines=("web-1",))
    )
    assert made.use_of("a") == expected


@pytest.mark.parametrize(
    "other",
    [disk(kind="File"), {**disk(kind="Block"), "format": "raw"}, disk(domain="", kind="Block"), disk(kind="Lun")],
    ids=["a file", "raw", "in no storage domain", "a LUN"],
)
def test_what_is_no_thin_volume(other: dict[str, Any]) -> None:
    made = ThinVolumes()
    made.replace("n1", machines(machine("web-1", disks=[other])))
    assert made.use_of("a") == StorageDomainUse()


def test_the_first_five_vms_are_named() -> None:
    made = ThinVolumes()
    for number in range(9, 0, -1):
        made.replace(f"n{number % 3}-{number}", machines(vm(f"web-{number}", domains=("a", "a"))))
    use = made.use_of("a")
    assert use == StorageDomainUse(thin_volumes=18, virtual_machines=tuple(f"web-{number}" for number in range(1, 6)))


names = st.sampled_from(("v1", "v2", "v3"))
placed = st.dictionaries(names, st.lists(st.sampled_from(("a", "b", "")), max_size=3).map(tuple), max_size=3)


@given(st.lists(st.tuples(st.sampled_from(("n1", "n2")), placed), max_size=12))
def test_what_counts_is_what_each_node_reported_last(history: list[tuple[str, dict[str, tuple[str, ...]]]]) -> None:
    made = ThinVolumes()
    last: dict[str, dict[str, tuple[str, ...]]] = {}
    for node, found in history:
        made.replace(node, machines(*(vm(name, domains=domains) for name, domains in found.items())))
        last[node] = found
    for domain in ("a", "b"):
        volumes = [
            name for found in last.values() for name, domains in found.items() for one in domains if one == domain
        ]
        assert made.use_of(domain) == StorageDomainUse(
            thin_volumes=len(volumes), virtual_machines=tuple(sorted(set(volumes)))
        )


def used(count: int, *names: str) -> StorageDomainStatus:
    return StorageDomainStatus(in_use=StorageDomainUse(thin_volumes=count, virtual_machines=names))


@pytest.mark.parametrize(
    ("before", "now", "seconds"),
    [
        (used(0), used(1, "v1"), COUNTS_SECONDS),
        (used(1, "v1"), used(0), COUNTS_SECONDS),
        (used(1, "v1"), used(2, "v1"), FIGURES_SECONDS),
        (used(1, "v1"), used(1, "v2"), FIGURES_SECONDS),
        (used(1, "v1"), used(1, "v1"), None),
        (used(0), StorageDomainStatus(in_use=StorageDomainUse(migrations=1)), COUNTS_SECONDS),
    ],
)
def test_how_soon_it_is_written(before: StorageDomainStatus, now: StorageDomainStatus, seconds: float | None) -> None:
    assert interval(before, now) == seconds
