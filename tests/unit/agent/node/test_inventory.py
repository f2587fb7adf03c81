"""The inventory has a volume's size from libvirt's poll, and asks its storage only where that has none."""

from pathlib import Path

import pytest

from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from diskmigration.agent.node.inventory import inventory
from diskmigration.agent.node.vm_snapshot import NodeSnapshot, VmSnapshot
from diskmigration.agent.references.usage import Usage
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.locations import Locations
from diskmigration.api.hypervisor import HypervisorStatus, VirtualMachineState
from diskmigration.api.storage_domain import StorageDomain

STORED, POLLED = 4096, 8192


def statistics(path: Path, physical: int | None) -> DomainStatistics:
    return DomainStatistics("vm", 1, (LayerStatistics("vda", 2, str(path), 1, 1, physical, 0),))


def disk_size(path: Path, polled: DomainStatistics | None) -> int | None:
    """The size that the inventory tells of the volume."""
    domains = StorageDomains({})
    domains.put(StorageDomain.from_wire({"metadata": {"name": "pool"}, "spec": {"file": {"path": str(path.parent)}}}))
    layer = Layer(type="file", path=str(path), format="qcow2", index=2 if polled is not None else None)
    disk = DomainDisk(target="vda", device="disk", type="file", chain=(layer,), chain_is_known=True)
    state = VirtualMachineState.RUNNING if polled is not None else VirtualMachineState.SHUT_OFF
    vm = VmSnapshot("vm", "web-1", state, DomainDescription("web-1", "vm", (disk,)), polled)
    found = inventory(
        NodeSnapshot("9.0.0", "7.2.0", (vm,)),
        domains,
        Locations(domains, domains.locate),
        agent_version="1",
        orphans_of=lambda _: (),
        usage=Usage(),
        before=HypervisorStatus(),
    )
    return found.virtual_machines[0].disks[0].size_bytes


@pytest.mark.parametrize(
    ("is_running", "physical", "size"),
    [(True, POLLED, POLLED), (True, None, STORED), (False, None, STORED)],
)
def test_the_size_is_the_polls_where_it_has_one(
    tmp_path: Path, *, is_running: bool, physical: int | None, size: int
) -> None:
    path = tmp_path / "volume"
    path.write_bytes(bytes(STORED))
    assert disk_size(path, statistics(path, physical) if is_running else None) == size
