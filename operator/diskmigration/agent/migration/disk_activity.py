"""Check whether QEMU has taken over a VM's disk. It takes over that of a VM that arrived paused when it is resumed."""

from pathlib import Path

from diskmigration.agent.hypervisor.errors import VirtualMachinePausedError
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.storage.openers import openers_of
from diskmigration.api.hypervisor import VirtualMachineState


def require_active_disk(attempt: Attempt) -> None:
    """Check that a block job would see what the guest writes.

    Until a VM that was migrated to this node while paused is resumed, its block nodes are inactive. QEMU before 10
    starts a mirror on them all the same, and the mirror misses what the guest writes after that. What QEMU has open for
    reading alone, it has not taken over: libvirt sets auto-read-only on each image.
    Source: raw_parse_flags in QEMU's block/file-posix.c, late-block-activate in its qapi/migration.json.

    Raises:
        VirtualMachinePausedError: it would not.
        MigrationError: StorageFailed, it cannot be told.
    """
    if attempt.domain.state() is not VirtualMachineState.PAUSED:
        return
    path = attempt.active_path()
    openers = openers_of(Path(path)) if path else ()
    if openers and not any(opener.writes for opener in openers):
        raise VirtualMachinePausedError(
            f"The VM came to this node paused, and its QEMU has not taken over {path} yet. Resume it (`virsh resume`): "
            "the migration then goes on."
        )
