"""Volumes that take the place of others: whom they belong to, and that QEMU can open them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.hypervisor import qemu_user
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.migration.checks.access import Access, require_access
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.removal import remove_probe
from diskmigration.agent.storage import access, ownership, volume_names
from diskmigration.agent.storage.driver import Owner, StorageDriver
from diskmigration.agent.storage.ownership import Ownership
from diskmigration.agent.storage.volume_names import volume_name
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.storage_domain import StorageType


def replaced(journal: Journal, volume: JournalVolume) -> JournalVolume:
    """Return the source's volume whose place that one takes; pure."""
    if volume in journal.destination and not journal.flattens:
        return journal.source[journal.destination.index(volume)]
    return journal.source[-1]


def ownership_for(journal: Journal, volume: JournalVolume) -> Ownership:
    """Return whom a volume of the migration's own must belong to.

    Raises:
        MigrationError: StorageFailed.
    """
    return ownership.read(Path(replaced(journal, volume).path))


def require_openable(domain: Domain, journal: Journal, volume: JournalVolume, driver: StorageDriver) -> None:
    """Raise VolumeNotAccessible if the VM's QEMU could not open a volume that was made for it.

    A device for a VM that runs is not judged: libvirt gives it away, or QEMU refuses it, before the VM depends on it.
    """
    if volume.type is StorageType.BLOCK and domain.is_active():
        return
    is_written_to = volume in (journal.snapshot, journal.overlay, journal.destination[-1])
    _require(domain, journal, Path(volume.path), driver, is_written_to=is_written_to)


def require_files_openable(domain: Domain, journal: Journal, owner: Owner, driver: StorageDriver) -> None:
    """Raise VolumeNotAccessible if the VM's QEMU could not open the files that the migration will make in a domain.

    One is made and removed. Nothing is tried on block storage: there each volume is judged once it is made.
    """
    if driver.type is not StorageType.FILE:
        return
    probe = volume_name(journal.uid, journal.attempt, volume_names.PROBE, VolumeFormat.RAW)
    with _made(driver, probe, owner, ownership.read(Path(journal.source[-1].path))) as path:
        _require(domain, journal, path, driver, is_written_to=True)


@contextlib.contextmanager
def _made(driver: StorageDriver, name: str, owner: Owner, wanted: Ownership) -> Iterator[Path]:
    try:
        yield driver.create(name, 0, owner, wanted)
    finally:
        remove_probe(driver, name)


def _require(domain: Domain, journal: Journal, path: Path, driver: StorageDriver, *, is_written_to: bool) -> None:
    old_path = Path(journal.source[-1].path)
    old = ownership.read(old_path)
    # Where libvirt names the user in words, whoever owns the old volume is the best guess.
    user = qemu_user.of_domain(domain) or old.credentials
    opens = access.may_open(path, user, writes=is_written_to)
    require_access(
        Access(
            path=path,
            ownership=ownership.read(path),
            user=user,
            opens=opens,
            passes=opens or access.may_pass(path.parent, user),
            libvirt_changes_owners=opens or _is_changed_by_libvirt(old, old_path, user),
            libvirt_can_give=opens or driver.libvirt_gives_away(),
            is_device=driver.type is StorageType.BLOCK,
        )
    )


def _is_changed_by_libvirt(old: Ownership, path: Path, user: Credentials) -> bool:
    return old.is_changed_by_libvirt or not access.may_open(path, user)
