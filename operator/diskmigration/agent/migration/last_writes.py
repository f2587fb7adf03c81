"""Find the volumes of a migration that may hold what the guest wrote last, and say what to do with them."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.storage import qcow2_header, qemu_img
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.openers import openers_of
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.agent.storage.volume_names import OVERLAY, SNAPSHOT, OwnName, read_own_name
from diskmigration.api.disk_migration import DiskMigrationStatus, Phase, VolumeFormat
from diskmigration.api.errors import MigrationError, Reason

_CONTENTS = {
    OVERLAY: "a copy of the snapshot, and what the guest wrote from the pivot until the merge",
    SNAPSHOT: "what the guest wrote from the snapshot until the pivot, above the volume that the disk had before",
}
_COPY = "a copy of a volume of the chain, and if it is the top one, what the guest wrote after the merge"
_BEFORE_PIVOT = (
    Phase.SNAPSHOTTING,
    Phase.PREPARING_DESTINATION,
    Phase.COPYING_CHAIN,
    Phase.REPLICATING,
    Phase.SYNCHRONIZED,
)
TOP_COPY = "top"
"""The role of the destination's top volume, in place of its position."""


@dataclass(frozen=True)
class OwnVolume:
    """A volume that a migration made, and that is there."""

    domain: OpenDomain
    name: str
    own_name: OwnName

    def __str__(self) -> str:
        """Name it for a message, with what it may hold."""
        contents = _CONTENTS.get(self.own_name.role, _COPY)
        return f"{self.path} in the storage domain {self.domain.name}: {contents}"

    @property
    def path(self) -> Path:
        """Where QEMU finds it."""
        return self.domain.driver.path(self.name)


def own_volumes(uid: str, domains: Iterable[OpenDomain]) -> tuple[OwnVolume, ...]:
    """Return all that the migration of that uid has made in these storage domains and not removed, top volumes first.

    Raises:
        MigrationError: a storage domain cannot be looked into.
    """
    found = [
        OwnVolume(domain, name, own_name)
        for domain in {domain.name: domain for domain in domains}.values()
        for name in domain.driver.volumes()
        if (own_name := read_own_name(uid, name)) is not None
    ]
    return tuple(sorted(found, key=lambda volume: _height(volume.own_name), reverse=True))


def _height(name: OwnName) -> tuple[int, int]:
    heights = {SNAPSHOT: -1, OVERLAY: sys.maxsize}
    return name.attempt, heights[name.role] if name.role in heights else int(name.role)


def newest_by_journal(journal: Journal) -> str | None:
    """Return the role of the migration's volume to which the guest wrote last, or None where that cannot be told."""
    if journal.is_switching:
        return None
    if journal.has_pivoted:
        return OVERLAY if journal.overlay is not None and not journal.is_merged else TOP_COPY
    return SNAPSHOT if journal.snapshot is not None and not journal.is_merged else None


def newest_by_status(
    status: DiskMigrationStatus, volumes: Sequence[OwnVolume], holds_data: Callable[[OwnVolume], bool | None]
) -> str | None:
    """Return the same where there is no journal any more; `volumes` are those that are left.

    The status may be older than what has happened: the agent was killed before it wrote it, or the API server was away.
    A pivot that it does not know of had the snapshot's data mirrored before, to the overlay, or to a copy where there
    is none. `holds_data` returns None where that cannot be told.
    """
    if status.pivoted_time is not None:
        return TOP_COPY if status.phase is Phase.CLEANING_UP else None
    if status.phase not in _BEFORE_PIVOT:
        return None
    snapshots = [volume for volume in volumes if volume.own_name.role == SNAPSHOT]
    others = [volume for volume in volumes if volume.own_name.role != SNAPSHOT]
    mirrors = [volume for volume in others if volume.own_name.role == OVERLAY] or others
    if any(holds_data(volume) is not False for volume in mirrors):
        return None
    return SNAPSHOT if not mirrors or any(map(holds_data, snapshots)) else None


def holds_data(volume: OwnVolume, *, keep_on: Callable[[], bool]) -> bool | None:
    """Return whether anything was copied or written to the qcow2 volume; None for one that cannot be read.

    Raises:
        StoppedError: `keep_on` said no.
    """
    driver = volume.domain.driver
    try:
        driver.activate(volume.name)
        return not _is_unwritten(Image(volume.path, VolumeFormat.QCOW2, driver.type), keep_on)
    except MigrationError:
        return None


def _has_role(volume: OwnVolume, role: str | None) -> bool:
    """Return whether it has that role; of the copies, the first one that is asked is the top one."""
    own_role = volume.own_name.role
    return own_role == role or (role == TOP_COPY and own_role not in (SNAPSHOT, OVERLAY))


def keep(volumes: Iterable[OwnVolume]) -> None:
    """Have nobody take the volumes for leftovers that may go."""
    for volume in volumes:
        volume.domain.driver.keep([volume.name])


def advice(volumes: Sequence[OwnVolume], newest: str | None) -> str:
    """Return which volumes are left, and what to do with them; `newest` is the role of the one written to last."""
    if not volumes:
        return "Nothing is left of the migration."
    first = next((volume for volume in volumes if _has_role(volume, newest)), None)
    if first is not None:
        what = f"The guest wrote last to {first.path}."
    else:
        what = "Which volume the guest wrote to last cannot be told."
    named = "; ".join(map(str, sorted(volumes, key=lambda volume: volume is not first)))
    return (
        f"{what} Nothing of the migration was removed, as it may hold the guest's last writes. There are {named}. "
        "Before the VM runs on, look into them: `qemu-img info --backing-chain PATH` shows what lies below one, "
        "`qemu-img compare` whether two hold the same. Then have the VM's definition name the one with the last writes "
        "(`virsh edit`), and remove what is not below it. If the VM has run from an older volume since, do not put it "
        "on the newer one: read what you need from that with `qemu-nbd --read-only`."
    )


def is_there(home: OpenDomain, volume: JournalVolume) -> bool:
    """Return whether the volume was made, and not removed yet."""
    return volume.name in home.driver.volumes()


def require_unwritten(home: OpenDomain, volume: JournalVolume, *, keep_on: Callable[[], bool]) -> None:
    """Raise SnapshotFailed unless nobody has the volume open or has written to it, so that it may be formatted.

    Raises:
        StoppedError: `keep_on` said no.
    """
    if not is_there(home, volume):
        return
    home.driver.activate(volume.name)
    if openers := openers_of(Path(volume.path)):
        what = f"is open in {', '.join(map(str, openers))}"
    elif not _is_unwritten(volume.image, keep_on):
        what = "has been written to"
    else:
        return
    raise MigrationError(
        Reason.SNAPSHOT_FAILED,
        f"{volume.path} is there already and {what}, so it is not made again: it may hold the guest's last writes.",
    )


def _is_unwritten(image: Image, keep_on: Callable[[], bool]) -> bool:
    if image.format is not VolumeFormat.QCOW2:
        return False
    return qcow2_header.is_blank(image.path) or not qemu_img.has_own_data(image, keep_on=keep_on)


def may_hold_writes(journal: Journal, home: OpenDomain, volume: JournalVolume, *, keep_on: Callable[[], bool]) -> bool:
    """Return whether a guest may have written to the volume what is not in the volume below it.

    What cannot be read counts as written to.

    Raises:
        StoppedError: `keep_on` said no.
    """
    if not is_there(home, volume):
        return False
    try:
        home.driver.activate(volume.name)
        if _is_unwritten(volume.image, keep_on):
            return False
        # An agent that was killed may have merged it without a note. The chains differ where nobody did.
        was_merging = journal.rolls_back or journal.has_pivoted
        side = journal.at_source if volume in journal.at_source else journal.at_destination
        below = side[side.index(volume) - 1]
        if not was_merging:
            return True
        return not qemu_img.is_equal(journal.chain_of(volume), journal.chain_of(below), keep_on=keep_on)
    except MigrationError:
        return True
