"""Storage domains of kind `loop`: block storage without an array, for development and tests.

A volume is a file below the domain's directory behind a loop device. Device numbers are given anew at every attach, so
QEMU is told a link, `dev/<volume>` below the same directory: it is the volume's path for as long as the volume lives,
and a link that hangs is an error where a reused number would be another disk.

A device that is attached here belongs to whom its file belongs.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diskmigration.agent.storage import command, directory, loop_devices, ownership
from diskmigration.agent.storage.driver import Leftover, Owner, Space, StoredImage
from diskmigration.agent.storage.failures import os_errors, raises_migration_errors
from diskmigration.agent.storage.ownership import OWN, Ownership
from diskmigration.agent.storage.paths import found_at
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_SECTOR_BYTES = 4096
_LINKS = "dev"


@raises_migration_errors
@dataclass(frozen=True)
class LoopDriver:
    """See StorageDriver."""

    name: str
    root: Path
    type: StorageType = StorageType.BLOCK
    _attaching: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def check(self) -> None:
        """Check that the directory can be written, and that the kernel has loop devices."""
        directory.require_writable(self.root)
        if not Path("/dev/loop-control").exists():
            raise MigrationError(Reason.STORAGE_FAILED, "The kernel has no loop devices: load the module `loop`.")

    def space(self) -> Space:
        """Return the file system's room: the files are sparse."""
        return directory.space(self.root)

    def is_full(self, volume: str) -> bool:
        """Return whether its file system or its quota is: the files are sparse."""
        return directory.is_full(self.root, volume)

    def can_hold(self, size_bytes: int) -> bool:
        """Return whether the file system can have a file of that size."""
        return directory.can_hold_file(self.root, size_bytes)

    def path(self, volume: str) -> Path:
        """Return the link to the loop device; the device itself for a volume that somebody else attached."""
        link = self._link(volume)
        device = self._device(volume)
        return link if link.is_symlink() or device is None else device

    def volume_at(self, path: Path) -> str | None:
        """Return the file behind the loop device."""
        file = loop_devices.file_within(path, self.root)
        return directory.name_within(self.root, file) if file is not None else None

    def volumes(self) -> tuple[str, ...]:
        return directory.files(self.root)

    def images(self) -> tuple[StoredImage, ...]:
        """Every file below the root, attached or not."""
        return directory.images(self.root)

    def image_at(self, path: Path) -> StoredImage | None:
        """Return the file of the link that the path names."""
        if path.parent != self.root / _LINKS:
            return None
        return next((image for image in self.images() if image.name == path.name), None)

    def image(self, volume: str) -> StoredImage | None:
        return directory.image(self.root, volume)

    def paths(self, volume: str) -> tuple[Path, ...]:
        """Return the device, and the file behind it."""
        return (self.path(volume), directory.file_of(self.root, volume))

    def volume_group(self) -> None:
        """None: a directory is no group."""

    def require_ours(self, volume: str) -> None:
        """Every file of the directory is."""

    def rounded(self, size_bytes: int) -> int:
        """Return the size in whole sectors."""
        return _rounded(size_bytes)

    def create(
        self,
        volume: str,
        size_bytes: int,
        owner: Owner,  # noqa: ARG002 - a file carries no mark
        ownership: Ownership = OWN,
    ) -> Path:
        """Make a sparse file, its loop device, and the link; each only where an earlier attempt has not made it."""
        directory.create_file(directory.file_of(self.root, volume), _rounded(size_bytes), ownership)
        with self._attaching:
            device = self._device(volume) or self._attach(volume)
            self._refresh(device, volume)
            self._point_link(volume, device)
        return self._link(volume)

    def libvirt_gives_away(self) -> bool:
        """Return True: libvirt changes the owner of the device."""
        return True

    def keep(self, volumes: Sequence[str]) -> None:
        """Nothing to do: a file carries no mark."""

    def activate(self, volume: str, *, alone: bool = False) -> None:  # noqa: ARG002 - its file is on this node
        """Attach the volume where it is not, as after a restart of the node."""
        with self._attaching:
            self._point_link(volume, self._device(volume) or self._attach(volume))

    def size_bytes(self, volume: str) -> int:
        device = self._required_device(volume)
        with os_errors(f"reading the size of {volume}"):
            return int((loop_devices.SYSFS / device.name / "size").read_text()) * 512

    def allocated_bytes(self, volume: str) -> int:
        """Return the blocks of the file."""
        return directory.allocated_bytes(directory.file_of(self.root, volume))

    def extend(self, volume: str, size_bytes: int) -> int:
        """Grow the file, then tell the device (LOOP_SET_CAPACITY); QEMU sees a qcow2's device grow at once."""
        device = self._required_device(volume)
        directory.grow_file(directory.file_of(self.root, volume), _rounded(size_bytes))
        self._refresh(device, volume)
        return self.size_bytes(volume)

    def remove(self, volume: str) -> None:
        """Remove the link, the device and the file, in this order: what is left after a crash is found by its file."""
        is_planted = (self.root / volume).is_symlink()
        if not is_planted:
            link = self._link(volume)
            with self._attaching:
                # Found by the link, while there is one: to ask all devices of the node takes long.
                device = self._device(volume)
                if link.is_symlink():
                    link.unlink(missing_ok=True)
                if device is not None:
                    _take_back(device)
                    doing = f"detaching {device} of the volume {volume}"
                    command.run(["losetup", "--detach", str(device)], doing=doing)
        directory.remove_file(self.root, volume)

    def leftovers(self, node: str) -> tuple[Leftover, ...]:  # noqa: ARG002 - see below
        """None are known: a file carries no mark."""
        return ()

    def _link(self, volume: str) -> Path:
        directory.file_of(self.root, volume)
        if (self.root / _LINKS).is_symlink():
            said = f"{self.root / _LINKS} is a link, where this agent's own folder must be. Remove it."
            raise MigrationError(Reason.STORAGE_FAILED, said)
        return self.root / _LINKS / volume

    def _device(self, volume: str) -> Path | None:
        """Return the loop device of the volume's file, as the kernel tells it."""
        file = directory.file_of(self.root, volume)
        link = self._link(volume)
        if found_at(file) is None:
            # No device is found by a file that is not there.
            return None
        if link.is_symlink() and (backing := loop_devices.backing_of(link)) is not None and backing.is_file(file):
            return link.resolve(strict=True)
        named = loop_devices.devices_named(file.name)
        return next((device for device, backing in named if backing.is_file(file)), None)

    def _required_device(self, volume: str) -> Path:
        device = self._device(volume)
        if device is None:
            raise MigrationError(
                Reason.STORAGE_FAILED, f"The volume {volume} of {self.root} is not attached to a loop device."
            )
        return device

    def _attach(self, volume: str) -> Path:
        file = directory.file_of(self.root, volume)
        # Direct I/O on the file: the guest's data would stand twice in the host's memory, and a flush would be slow.
        printed = command.run(
            ["losetup", "--find", "--show", "--direct-io=on", "--", str(file)], doing=f"attaching the volume {volume}"
        )
        device = Path(printed.strip())
        owner = ownership.read(file)
        if not owner.credentials.is_root:
            ownership.give_path(device, owner)
        else:
            _take_back(device)
        return device

    def _refresh(self, device: Path, volume: str) -> None:
        with os_errors(f"extending the volume {volume} on {device}"):
            loop_devices.refresh_size(device)

    def _point_link(self, volume: str, device: Path) -> None:
        link = self._link(volume)
        with os_errors(f"linking {link} to {device}"):
            link.parent.mkdir(exist_ok=True)
            if link.is_symlink() and link.readlink() == device:
                return
            temporary = link.with_name(f".{volume}.new")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(device)
            temporary.rename(link)


def _take_back(device: Path) -> None:
    """Give a device that was somebody's to root: the kernel keeps its owner for whoever gets its number next."""
    if not ownership.read(device).credentials.is_root:
        ownership.give_path(device, ownership.OWN)


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES
