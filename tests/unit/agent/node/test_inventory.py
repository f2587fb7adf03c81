"""What the inventory tells of a disk: its size, and where it lies."""

from pathlib import Path

import pytest

from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from diskmigration.agent.node.inventory import inventory
from diskmigration.agent.node.vm_snapshot import NodeSnapshot, VmSnapshot
from diskmigration.agent.references.usage import Usage
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.locations import Locations
from diskmigration.api.libvirt_host import Disk, LibvirtHostStatus, VirtualMachineState
from diskmigration.api.storage_domain import StorageDomain

STORED, POLLED = 4096, 8192


def statistics(path: Path, physical: int | None) -> DomainStatistics:
    return DomainStatistics("vm", 1, (LayerStatistics("vda", 2, str(path), 1, 1, physical, 0),))


def survey(
    root: Path,
    path: Path,
    polled: DomainStatistics | None = None,
    before: LibvirtHostStatus | None = None,
    *,
    has_changed: bool = False,
) -> LibvirtHostStatus:
    """The inventory of a VM whose disk was the volume at the path; the storage domain `pool` is at the root.

    The VM's XML may have changed since it was read, or has not.
    """
    domains = StorageDomains({})
    domains.put(StorageDomain.from_wire({"metadata": {"name": "pool"}, "spec": {"file": {"path": str(root)}}}))
    layer = Layer(type="file", path=str(path), format="qcow2", index=2 if polled is not None else None)
    disk = DomainDisk(target="vda", device="disk", type="file", chain=(layer,), chain_is_known=True)
    state = VirtualMachineState.RUNNING if polled is not None else VirtualMachineState.SHUT_OFF
    vm = VmSnapshot("vm", "web-1", state, DomainDescription("web-1", "vm", (disk,)), polled)
    return inventory(
        NodeSnapshot("9.0.0", "7.2.0", (vm,)),
        domains,
        Locations(domains, domains.locate),
        agent_version="1",
        orphans_of=lambda _: (),
        usage=Usage(),
        before=before or LibvirtHostStatus(),
        describe=lambda _: None if has_changed else vm.description,
    )


def disk_of(status: LibvirtHostStatus) -> Disk:
    """Its one disk."""
    return status.virtual_machines[0].disks[0]


@pytest.mark.parametrize(
    ("is_running", "physical", "size"),
    [(True, POLLED, POLLED), (True, None, STORED), (False, None, STORED)],
)
def test_the_size_is_the_polls_where_it_has_one(
    tmp_path: Path, *, is_running: bool, physical: int | None, size: int
) -> None:
    path = tmp_path / "volume"
    path.write_bytes(bytes(STORED))
    polled = statistics(path, physical) if is_running else None
    assert disk_of(survey(tmp_path, path, polled)).size_bytes == size


@pytest.mark.parametrize("has_changed", [True, False])
@pytest.mark.parametrize("is_running", [True, False])
def test_a_disk_whose_volume_was_removed_stays_where_it_was_until_the_vm_is_read_again(
    tmp_path: Path, *, is_running: bool, has_changed: bool
) -> None:
    path, overlay = tmp_path / "volume", tmp_path / "overlay"
    path.write_bytes(bytes(STORED))
    known = survey(tmp_path, path, statistics(path, STORED) if is_running else None)
    assert disk_of(known).storage_domain_name == "pool"
    path.unlink()
    for gone in (path, overlay):
        polled = statistics(gone, STORED) if is_running else None
        shown = disk_of(survey(tmp_path, gone, polled, known, has_changed=has_changed))
        assert shown == (disk_of(known) if has_changed else Disk(target="vda", type="File", format="qcow2"))


def test_a_disk_that_lies_outside_every_storage_domain_is_shown_so(tmp_path: Path) -> None:
    root, outside = tmp_path / "pool", tmp_path / "outside"
    root.mkdir()
    for path in (root / "volume", outside):
        path.write_bytes(bytes(STORED))
    known = survey(root, root / "volume")
    assert disk_of(known).storage_domain_name == "pool"
    assert disk_of(survey(root, outside, before=known, has_changed=True)).storage_domain_name == ""
