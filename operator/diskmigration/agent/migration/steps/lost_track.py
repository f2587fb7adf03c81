"""A VM of which libvirt has lost track: find where its QEMU writes, and leave all alone until it has ended.

Three states that a libvirtd leaves which is killed while it notes what QEMU has done (seen in 9.0). It wrote what it
cannot read again, a `<mirror>` whose job is empty: it takes the VM for shut off, and QEMU goes on. Or it wrote a
`<mirror>` whose job is over: it takes the disk for busy, and for where it was before. Or it wrote nothing yet, after
QEMU took the snapshot: it takes the disk for where it was before, and QEMU writes to the snapshot. In all of them QEMU
may write to another volume than the XML names.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.last_writes import is_there
from diskmigration.agent.migration.steps.definition import settle_persistent_source
from diskmigration.agent.storage.image_locks import writers_of_any
from diskmigration.api.errors import MigrationError


@dataclass(frozen=True)
class LostProcess:
    """A process that writes to a volume of the disk although libvirt says that it cannot; `name` is for a user."""

    path: str
    name: str


def find_lost_process(journal: Journal) -> LostProcess | None:
    """Return who writes to an active layer of a VM that libvirt says is off, and to which; None if nobody does.

    The source comes first, as long as it is written to: a mirror has both open for writing, and so has a merge the
    volume that it merges into.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    volumes = (journal.snapshot, journal.source[-1], journal.overlay, journal.destination[-1])
    paths = [Path(volume.path) for volume in volumes if volume is not None]
    writers = writers_of_any(paths)
    return next((LostProcess(str(path), writers[path]) for path in paths if path in writers), None)


def find_if_lost(context: MigrationContext, disk: DomainDisk, *, is_running: bool, has_job: bool) -> LostProcess | None:
    """Return who writes to the disk, if libvirt has lost track of it; else None.

    Raises:
        MigrationError: StorageFailed, it cannot be told.
    """
    if not is_running:
        found = find_lost_process(context.journal)
        # It may have started since.
        return found if found is not None and not context.is_running() else None
    if has_job or not (disk.mirror is not None or _may_be_behind(context, disk)):
        return None
    try:
        path = context.read("asking QEMU for its disks", partial(context.domain.path_in_qemu, disk))
    except DomainGoneError:
        raise
    except MigrationError as error:
        # QEMU may have ended just now. Nothing is done before it is known.
        raise HypervisorUnavailableError(error.message) from error
    is_as_said = disk.active is not None and disk.active.path == path
    return None if is_as_said and disk.mirror is None else LostProcess(path, "its QEMU")


def _may_be_behind(context: MigrationContext, disk: DomainDisk) -> bool:
    """Return whether QEMU may have done what libvirt had asked of it, and libvirtd was killed before it noted that.

    QEMU is asked only then: libvirt marks a VM as tainted whose monitor somebody else uses.
    """
    journal = context.journal
    path = disk.active.path if disk.active is not None else ""
    if journal.pivoting_to is not None:
        return path in [volume.path for volume in journal.volumes]
    took_snapshot = journal.snapshot is not None and not journal.is_merged and path == journal.source[-1].path
    return took_snapshot and journal.snapshot is not None and is_there(context.source, journal.snapshot)


def follow(context: MigrationContext, lost: LostProcess, *, is_running: bool) -> str:
    """Have the persistent XML name the volume where QEMU writes, if it was asked to write there.

    So the VM starts with its last writes once it has ended. Return what to tell the user.

    Raises:
        MigrationError: PivotFailed.
    """
    snapshot = context.journal.snapshot
    # QEMU itself has told where it writes; the locks of a VM that is off for libvirt may be those of a mirror's source.
    is_on_snapshot = is_running and snapshot is not None and lost.path == snapshot.path
    if lost.path == context.journal.pivoting_to or is_on_snapshot:
        settle_persistent_source(context, context.journal.volume(lost.path))
    said = "says that the disk is elsewhere, or under a block job" if is_running else "says that the VM is shut off"
    way = "Shut the VM down" if is_running else "Shut the guest down from inside, or end that process on the node"
    return (
        f"libvirtd was killed, and has lost track of the VM: it {said}, but QEMU goes on and writes to {lost.path} "
        f"({lost.name}). Nothing is changed as long as it does. {way} (to reboot is not enough): the migration then "
        "ends, and the VM can be started again."
    )
