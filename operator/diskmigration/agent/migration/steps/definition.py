"""The VM's persistent definition: the disk with which it starts next follows the move, and nothing else changes.

libvirt rewrites it at a snapshot, a pivot and a merge of a running VM, but only where it named the live volume, without
a word otherwise, and without all that the `<source>` held.
"""

import logging
from pathlib import Path

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.storage.identity import is_same_volume
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)


def remember_disk(context: MigrationContext) -> None:
    """Note the disk of the persistent definition in the journal, before libvirt replaces its source."""
    document = context.domain.persistent_disk(context.target)
    if document is None or document == context.journal.persistent_disk:
        return
    if _names(domain_xml.parse_disk(document), context.journal.source[-1]):
        context.record(persistent_disk=document)


def settle_persistent_source(context: MigrationContext, volume: JournalVolume) -> None:
    """Make the persistent definition name the volume where it named another one of this disk's.

    A disk that is another one there was put there on purpose: it stays, and the migration's last message says so.

    Raises:
        MigrationError: PivotFailed; libvirt refused the changed disk.
    """
    journal = context.journal
    document = context.domain.persistent_disk(context.target)
    if document is None:
        return
    disk = domain_xml.parse_disk(document)
    if not names_any(disk, journal):
        _tell_of_another_disk(context, disk)
        return
    mended = domain_xml.moved_disk(
        document,
        kind=volume.type.lower(),
        path=volume.path,
        image_format=volume.format,
        # The user's own definition is taken as it is now.
        remembered=journal.persistent_disk if not _names(disk, journal.source[-1]) else None,
    )
    if domain_xml.is_same(mended, document):
        return
    try:
        context.domain.update_persistent_disk(mended)
    except MigrationError as error:
        if error.reason is not Reason.PIVOT_FAILED:
            raise
        raise MigrationError(
            error.reason,
            f"{error.message} The disk {context.target} of the persistent definition must be on {volume.path} before "
            "the migration can go on: change it with `virsh edit`, or shut the VM down.",
        ) from error


def leave_in_definition(context: MigrationContext, left: JournalVolume, volume: JournalVolume) -> None:
    """Make the persistent definition name `volume` where it still names the one that the guest has left.

    Raises:
        MigrationError: PivotFailed; libvirt refused the changed disk.
    """
    document = context.domain.persistent_disk(context.target)
    if document is not None and _names(domain_xml.parse_disk(document), left):
        settle_persistent_source(context, volume)


def names_any(disk: DomainDisk, journal: Journal) -> bool:
    """Return whether the disk is one that the guest wrote to before, during or after this migration."""
    volumes = (journal.source[-1], journal.snapshot, journal.overlay, journal.destination[-1])
    return any(_names(disk, volume) for volume in volumes if volume is not None)


def _names(disk: DomainDisk, volume: JournalVolume) -> bool:
    return disk.active is not None and is_same_volume(Path(disk.active.path), Path(volume.path))


def _tell_of_another_disk(context: MigrationContext, disk: DomainDisk) -> None:
    path = disk.active.path if disk.active is not None and disk.active.path else "no file or device"
    remark = (
        f"The VM's persistent definition names {path} for {context.target}, which is no volume of this migration: it "
        "was left as it is, and the VM's next start uses that disk."
    )
    if remark not in context.journal.remarks:
        _log.warning(
            "the persistent definition names another disk",
            extra={"migration": context.journal.migration.key, "disk": context.target, "path": path},
        )
        context.record(remarks=(*context.journal.remarks, remark))
