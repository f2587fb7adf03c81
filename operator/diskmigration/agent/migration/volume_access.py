"""Volumes that take the place of others: whom they belong to, and that QEMU can open them."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.hypervisor import qemu_user
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.migration.checks.disk import STORAGE_TYPES
from diskmigration.agent.migration.checks.openable import Access, require_access
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.removal import remove_probe
from diskmigration.agent.storage import access, ownership, volume_names
from diskmigration.agent.storage.bounded_reads import BoundedReads, NoAnswerError
from diskmigration.agent.storage.driver import Owner, StorageDriver
from diskmigration.agent.storage.ownership import Ownership
from diskmigration.agent.storage.paths import exists
from diskmigration.agent.storage.volume_names import volume_name
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageType

RunningVms = Callable[[], Iterable[DomainDescription]]
"""Return the node's VMs that run, as they were read last: none of them is asked, as one may hang."""

_ANSWER_SECONDS = 15.0
"""A machine that is busy tells whom a volume belongs to within that time."""
_NEXT_ANSWER_SECONDS = 1.0
"""For the volumes that are looked at after one that has not answered: they lie on the same mount, probably."""

_reads = BoundedReads("owner")


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


def require_openable(
    domain: Domain, journal: Journal, volume: JournalVolume, driver: StorageDriver, running: RunningVms
) -> None:
    """Raise VolumeNotAccessible if the VM's QEMU could not open a volume that was made for it.

    A device for a VM that runs is not judged: libvirt gives it away, or QEMU refuses it, before the VM depends on it.
    """
    if volume.type is StorageType.BLOCK and domain.is_active():
        return
    is_written_to = volume in (journal.snapshot, journal.overlay, journal.destination[-1])
    _require(domain, journal, Path(volume.path), driver, running, is_written_to=is_written_to)


def require_files_openable(
    domain: Domain, journal: Journal, owner: Owner, driver: StorageDriver, running: RunningVms
) -> None:
    """Raise VolumeNotAccessible if the VM's QEMU could not open the files that the migration will make in a domain.

    One is made and removed. Nothing is tried on block storage: there each volume is judged once it is made.
    """
    if driver.type is not StorageType.FILE:
        return
    probe = volume_name(journal.uid, journal.attempt, volume_names.PROBE, VolumeFormat.RAW)
    with _made(driver, probe, owner, ownership.read(Path(journal.source[-1].path))) as path:
        _require(domain, journal, path, driver, running, is_written_to=True)


@contextlib.contextmanager
def _made(driver: StorageDriver, name: str, owner: Owner, wanted: Ownership) -> Iterator[Path]:
    try:
        yield driver.create(name, 0, owner, wanted)
    finally:
        remove_probe(driver, name)


def _require(
    domain: Domain, journal: Journal, path: Path, driver: StorageDriver, running: RunningVms, *, is_written_to: bool
) -> None:
    old, new = ownership.read(Path(journal.source[-1].path)), ownership.read(path)
    # Where libvirt names the user in words, whoever owns the old volume is the best guess.
    user = qemu_user.of_domain(domain) or old.credentials
    if access.may_open(path, user, writes=is_written_to):
        return
    passes = access.may_pass(path.parent, user)
    if passes and old.is_open_to_a_group and new.is_alike(old):
        return
    require_access(
        Access(
            path=path,
            ownership=new,
            user=user,
            passes=passes,
            libvirt_changes_owners=journal.libvirt_changes_owners
            or _changes_owners(user, journal, running, besides=path),
            libvirt_can_give=driver.libvirt_gives_away(),
            is_device=driver.type is StorageType.BLOCK,
        )
    )


def libvirt_changes_owners(domain: Domain, journal: Journal, running: RunningVms) -> bool:
    """Return whether libvirt is seen to give volumes to QEMU's user, by this VM's or by those of others that run.

    A volume whose storage hangs shows nothing.

    Raises:
        MigrationError: StorageFailed, HypervisorUnavailable.
    """
    user = qemu_user.of_domain(domain) or ownership.read(Path(journal.source[-1].path)).credentials
    return _changes_owners(user, journal, running)


def _changes_owners(user: Credentials, journal: Journal, running: RunningVms, *, besides: Path | None = None) -> bool:
    # What was the active layer last: libvirt does not take the layers below it back when the VM ends.
    tops = [Path(volume.path) for volume in (journal.source[-1], journal.snapshot) if volume is not None]
    return any(_needs_to_be_given(user, top) for top in tops if top != besides) or _gives_volumes_to(user, running)


def _needs_to_be_given(user: Credentials, path: Path) -> bool:
    """Return whether QEMU could not use the volume, as it does or did, unless libvirt gave it to QEMU's user."""
    if not exists(path):
        return False
    found = ownership.read(path)
    return found.is_changed_by_libvirt or not (found.is_open_to_a_group or access.may_open(path, user))


def _gives_volumes_to(user: Credentials, running: RunningVms) -> bool:
    """Return whether a VM that runs has a volume that QEMU's user could not have opened before libvirt gave it away."""
    seconds = _ANSWER_SECONDS
    disks = (disk for description in running() for disk in description.disks if disk.type in STORAGE_TYPES)
    for path in (Path(disk.active.path) for disk in disks if disk.active is not None):
        try:
            if _reads.read(path, partial(_was_given_to, user, path), seconds=seconds):
                return True
        except NoAnswerError:
            seconds = _NEXT_ANSWER_SECONDS
    return False


def _was_given_to(user: Credentials, path: Path) -> bool:
    try:
        # libvirt makes each QEMU device nodes of its own, and gives it those: the host's stay as they are.
        return ownership.read(path).is_changed_by_libvirt or (
            path.is_block_device() and not access.may_open(path, user)
        )
    except MigrationError:
        return False
