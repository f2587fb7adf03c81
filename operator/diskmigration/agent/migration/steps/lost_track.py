"""A VM of which libvirt has lost track: find where its QEMU writes, and leave all alone until it has ended.

Two states that a libvirtd leaves which is killed while it notes the end of a block job (seen in 9.0). It wrote what it
cannot read again, a `<mirror>` whose job is empty: it takes the VM for shut off, and QEMU goes on. Or it wrote a
`<mirror>` whose job is over: it takes the disk for busy, and for where it was before. In both the disk may have been
pivoted unseen.
"""

from pathlib import Path

from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.migration.attempt import Attempt
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.steps.definition import settle_persistent_source
from diskmigration.agent.storage.image_locks import is_written_to


def path_of_lost_process(journal: Journal) -> str | None:
    """The active layer of a QEMU that libvirt does not know of, or None; only asked of a VM that is off.

    The source comes first, as long as it is written to: a mirror has both open for writing, and so has a merge the
    volume that it merges into.
    """
    volumes = (journal.snapshot, journal.source[-1], journal.overlay, journal.destination[-1])
    paths = [volume.path for volume in volumes if volume is not None]
    return next((path for path in paths if is_written_to(Path(path))), None)


def path_if_lost(attempt: Attempt, disk: DomainDisk, *, is_running: bool, has_job: bool) -> str | None:
    """Where QEMU writes, if libvirt has lost track of it; else None."""
    if not is_running:
        return path_of_lost_process(attempt.journal)
    if disk.mirror is None or has_job:
        return None
    return attempt.domain.path_in_qemu(disk)


def follow(attempt: Attempt, path: str, *, is_running: bool) -> str:
    """Has the persistent XML name the volume where QEMU writes, if it was asked to pivot to that one.

    Returns what to tell the user.

    Raises:
        MigrationError: PivotFailed.
    """
    if path == attempt.journal.pivoting_to:
        settle_persistent_source(attempt, attempt.journal.volume(path))
    said = "shows a block job that has ended" if is_running else "says that the VM is shut off"
    way = "Shut the VM down" if is_running else "Shut the guest down from inside, or end that process on the node"
    return (
        f"libvirtd was killed, and has lost track of the VM: it {said}, but QEMU goes on and writes to {path}. Nothing "
        f"is changed as long as it does. {way} (`fuser {path}` tells which it is; to reboot is not enough): the "
        "migration then ends, and the VM can be started again."
    )
