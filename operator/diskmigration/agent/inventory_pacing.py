"""When a node's inventory is worth a write. Pure."""

from collections.abc import Mapping

from diskmigration.api.libvirt_host import LibvirtHostStatus, VirtualMachine

FACTS_SECONDS = 0.5
"""VMs, disks, storage domains and conditions that change within this time are one write."""
ROOM_SECONDS = 5.0
"""How soon it is written again that a storage domain has run full, or has room again: migrations are placed by it."""
FIGURES_SECONDS = 60.0
"""How often other figures are written."""
ROOM_SHARE = 0.5
FIGURES_SHARE = 0.05
FIGURES_BYTES = 2**30
"""Figures that have moved by less than both are not worth a write."""

_Figures = Mapping[tuple[str, ...], int | None]


def interval(written: LibvirtHostStatus, status: LibvirtHostStatus) -> float | None:
    """Return how long after the last write this status is due, in seconds; None where it is not worth one."""
    if _has_other_facts(written, status):
        return FACTS_SECONDS
    if any(_share(before, now) >= ROOM_SHARE for before, now in _pairs(_room(written), _room(status))):
        return ROOM_SECONDS
    before = {**_room(written), **_sizes(written)}
    after = {**_room(status), **_sizes(status)}
    return FIGURES_SECONDS if any(_has_moved(*pair) for pair in _pairs(before, after)) else None


def _pairs(before: _Figures, after: _Figures) -> list[tuple[int | None, int | None]]:
    return [(before.get(key), after.get(key)) for key in {*before, *after}]


def _has_moved(before: int | None, after: int | None) -> bool:
    if before is None or after is None:
        return before is not after
    return _share(before, after) >= FIGURES_SHARE or abs(before - after) >= FIGURES_BYTES


def _share(before: int | None, after: int | None) -> float:
    """Return by how much it has moved, of the larger one; nothing where either is not known."""
    if before is None or after is None or before == after:
        return 0.0
    return abs(before - after) / max(before, after)


def _room(status: LibvirtHostStatus) -> _Figures:
    return {("room", domain.name): domain.available_bytes for domain in status.storage_domains}


def _sizes(status: LibvirtHostStatus) -> _Figures:
    figures: dict[tuple[str, ...], int | None] = {
        ("capacity", domain.name): domain.capacity_bytes for domain in status.storage_domains
    }
    for machine in status.virtual_machines:
        for disk in machine.disks:
            of = (machine.uuid, disk.target)
            figures[*of, "capacity"] = disk.capacity_bytes
            figures[*of, "size"] = disk.size_bytes
            figures[*of, "allocated"] = disk.allocated_bytes
    return figures


def _has_other_facts(written: LibvirtHostStatus, status: LibvirtHostStatus) -> bool:
    machines, before = status.virtual_machines, written.virtual_machines
    if len(machines) != len(before):
        return True
    # Most VMs are as they were, whose figures need not be taken out: this is done every 2 s.
    changed = [(old, new) for old, new in zip(before, machines, strict=True) if old != new]
    return any(_machine_facts(old) != _machine_facts(new) for old, new in changed) or (
        _other_facts(written) != _other_facts(status)
    )


def _machine_facts(machine: VirtualMachine) -> VirtualMachine:
    # Without the virtual size too: libvirt does not give it while a QEMU is busy.
    zero = {"capacity_bytes": 0, "size_bytes": 0, "allocated_bytes": 0}
    return machine.model_copy(update={"disks": tuple(disk.model_copy(update=zero) for disk in machine.disks)})


def _other_facts(status: LibvirtHostStatus) -> LibvirtHostStatus:
    domains = tuple(
        domain.model_copy(update={"available_bytes": 0, "capacity_bytes": 0}) for domain in status.storage_domains
    )
    return status.model_copy(update={"virtual_machines": (), "storage_domains": domains})
