"""A change of figures alone is written now and then, and a figure that is not known at the moment is such a change."""

from typing import Any

import pytest

from diskmigration.agent.inventory_pacing import FACTS_SECONDS, FIGURES_SECONDS, ROOM_SECONDS, interval
from diskmigration.api.libvirt_host import (
    Disk,
    LibvirtHostStatus,
    NodeStorageDomain,
    VirtualMachine,
    VirtualMachineState,
)


def status(*, domain: dict[str, Any] | None = None, **disk: Any) -> LibvirtHostStatus:
    whole = {"capacity_bytes": 100, "size_bytes": 64, "allocated_bytes": 10, "storage_domain_name": "san", **disk}
    machine = VirtualMachine(
        name="web-1", uuid="u", state=VirtualMachineState.RUNNING, disks=(Disk(target="vda", type="Block", **whole),)
    )
    room = {"capacity_bytes": 1000, "available_bytes": 500, **(domain or {})}
    return LibvirtHostStatus(
        storage_domains=(NodeStorageDomain(name="san", ready=True, **room),), virtual_machines=(machine,)
    )


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        (status(), None),
        (status(allocated_bytes=20), FIGURES_SECONDS),
        (status(size_bytes=None, allocated_bytes=None), FIGURES_SECONDS),
        (status(capacity_bytes=None), FIGURES_SECONDS),
        (status(capacity_bytes=101), None),
        (status(domain={"available_bytes": None}), FIGURES_SECONDS),
        (status(domain={"available_bytes": 480}), None),
        (status(domain={"available_bytes": 460}), FIGURES_SECONDS),
        (status(domain={"available_bytes": 200}), ROOM_SECONDS),
        (status(domain={"available_bytes": 0}), ROOM_SECONDS),
        (status(storage_domain_name="nfs"), FACTS_SECONDS),
        (status(storage_domain_name="nfs", allocated_bytes=20), FACTS_SECONDS),
    ],
)
def test_what_changed_is_written_at_once_and_figures_seldom(changed: LibvirtHostStatus, seconds: float | None) -> None:
    assert interval(status(), changed) == seconds


def test_a_gibibyte_is_much_of_whatever() -> None:
    before, after = (status(domain={"available_bytes": room}) for room in (2**40, 2**40 - 2**30))
    assert interval(before, after) == FIGURES_SECONDS


def test_a_figure_that_is_not_known_is_absent() -> None:
    [machine] = status(capacity_bytes=None).to_wire()["virtualMachines"]
    assert machine["disks"] == [
        {
            "target": "vda",
            "storageDomainName": "san",
            "volume": "",
            "type": "Block",
            "format": "",
            "sizeBytes": 64,
            "allocatedBytes": 10,
        }
    ]
