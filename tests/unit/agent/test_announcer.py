"""A change of figures alone is written now and then, and a figure that is not known at the moment is such a change."""

from typing import Any

import pytest

from diskmigration.agent.announcer import _without_figures
from diskmigration.api.hypervisor import Disk, HypervisorStatus, NodeStorageDomain, VirtualMachine, VirtualMachineState


def status(*, domain: dict[str, Any] | None = None, **disk: Any) -> HypervisorStatus:
    whole = {"capacity_bytes": 100, "size_bytes": 64, "allocated_bytes": 10, "storage_domain": "san", **disk}
    machine = VirtualMachine(
        name="web-1", uuid="u", state=VirtualMachineState.RUNNING, disks=(Disk(target="vda", type="Block", **whole),)
    )
    room = {"capacity_bytes": 1000, "available_bytes": 500, **(domain or {})}
    return HypervisorStatus(
        storage_domains=(NodeStorageDomain(name="san", ready=True, **room),), virtual_machines=(machine,)
    )


@pytest.mark.parametrize(
    "changed",
    [
        status(allocated_bytes=20),
        status(size_bytes=None, allocated_bytes=None),
        status(capacity_bytes=None),
        status(domain={"available_bytes": None}),
    ],
)
def test_figures_are_no_reason_to_write_at_once(changed: HypervisorStatus) -> None:
    assert changed != status()
    assert _without_figures(changed) == _without_figures(status())


def test_a_disk_that_is_elsewhere_is_one() -> None:
    assert _without_figures(status(storage_domain="nfs")) != _without_figures(status())


def test_a_figure_that_is_not_known_is_absent() -> None:
    [machine] = status(capacity_bytes=None).to_wire()["virtualMachines"]
    assert machine["disks"] == [
        {
            "target": "vda",
            "storageDomain": "san",
            "volume": "",
            "type": "Block",
            "format": "",
            "sizeBytes": 64,
            "allocatedBytes": 10,
        }
    ]
