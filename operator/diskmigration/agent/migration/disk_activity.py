"""Tell what QEMU does with a VM's disk: whether it has taken it over, and how far it has written it.

QEMU takes over the disk of a VM that arrived paused when the VM is resumed.
"""

from functools import partial
from pathlib import Path

from diskmigration.agent.hypervisor import statistics
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError, VirtualMachinePausedError
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.storage.openers import openers_of
from diskmigration.api.libvirt_host import VirtualMachineState


def require_active_disk(context: MigrationContext) -> None:
    """Check that a block job would see what the guest writes.

    Until a VM that was migrated to this node while paused is resumed, its block nodes are inactive. QEMU before 10
    starts a mirror on them all the same, and the mirror misses what the guest writes after that. What QEMU has open for
    reading alone, it has not taken over: libvirt sets auto-read-only on each image.
    Source: raw_parse_flags in QEMU's block/file-posix.c, late-block-activate in its qapi/migration.json.

    Raises:
        VirtualMachinePausedError: it would not.
        MigrationError: StorageFailed, it cannot be told.
    """
    if context.domain.state() is not VirtualMachineState.PAUSED:
        return
    path = context.active_path()
    openers = openers_of(Path(path)) if path else ()
    if openers and not any(opener.writes for opener in openers):
        raise VirtualMachinePausedError(
            f"The VM came to this node paused, and its QEMU has not taken over {path} yet. Resume it (`virsh resume`): "
            "the migration then goes on."
        )


def written_since_open(context: MigrationContext, volume: JournalVolume) -> int:
    """Return the highest offset that QEMU has written to a volume since it opened it, in bytes.

    Raises:
        HypervisorUnavailableError: libvirt does not tell.
    """
    doing = f"asking how far {volume.path} is written"
    layer = context.read(doing, partial(statistics.of_domain, context.domain)).layer(volume.path, context.target)
    if layer is None or layer.allocated_bytes is None:
        raise HypervisorUnavailableError(
            f"libvirt does not tell how far {volume.path} is written: its QEMU is busy. It is asked again."
        )
    return layer.allocated_bytes
