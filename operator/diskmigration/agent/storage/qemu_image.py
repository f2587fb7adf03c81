"""An image as qemu-img is told of it: its path, its format, and the whole chain below it. Formats are always stated."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage import access
from diskmigration.agent.storage.qcow2_limits import CLUSTER_BYTES
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_JSON = "json:"
LONGEST_NAME_BYTES = 32 * 4096 - 1
"""MAX_ARG_STRLEN of Linux's include/uapi/linux/binfmts.h, without the NUL: the longest argument of a program."""


@dataclass(frozen=True)
class Image:
    """A volume as qemu-img is told of it."""

    path: Path
    format: VolumeFormat
    type: StorageType


@dataclass(frozen=True)
class Measure:
    """`qemu-img measure`, in bytes: for the data there is, and for a disk written from end to end.

    Of a qcow2 both count the tables of the whole disk, although there are only those that its data needs.
    """

    required_bytes: int
    fully_allocated_bytes: int

    def data_bytes(self, capacity_bytes: int, *, cluster_bytes: int = CLUSTER_BYTES) -> int:
        """Return the data of a qcow2 of that virtual size and those clusters, without any tables."""
        whole = -(-capacity_bytes // cluster_bytes) * cluster_bytes
        return self.required_bytes - self.fully_allocated_bytes + whole

    def needed_bytes(self, storage: StorageType, capacity_bytes: int) -> int:
        """Return the room that a copy takes at least: a block volume has its tables' from the start, a file has not."""
        return self.data_bytes(capacity_bytes) if storage is StorageType.FILE else self.required_bytes


def named(chain: Sequence[Image], *, is_target: bool = False) -> str:
    """Return the chain as a json: pseudo-protocol name, whose length grows with the chain's and no faster.

    A target's top is opened with the cache mode of `qemu-img convert -t`, and what lies below it without a lock, as a
    VM may have it open, and by itself, as a tmpfs has no direct I/O before Linux 6.6.
    """
    top = len(chain) - 1
    node: dict[str, object] | None = None
    for position, image in enumerate(chain):
        file = _file_of(image, sets_cache=not is_target or position < top)
        shared = {"read-only": True, "force-share": True} if is_target and position < top else {}
        below = {"backing": node} if image.format is VolumeFormat.QCOW2 else {}
        node = {"driver": image.format, "file": file, **shared, **below}
    return _JSON + json.dumps(node, separators=(",", ":"))


def named_alone(image: Image) -> str:
    """Return the name of one qcow2 volume without what lies below it."""
    return _JSON + json.dumps({"driver": image.format, "backing": None, "file": _file_of(image, sets_cache=True)})


def _file_of(image: Image, *, sets_cache: bool) -> dict[str, object]:
    """The node that opens the file or device; unless it sets the cache mode, it has the one of the command line."""
    protocol = "host_device" if image.type is StorageType.BLOCK else "file"
    cache = {"cache": {"direct": supports_direct_io(image.path)}} if sets_cache else {}
    return {"driver": protocol, "filename": str(image.path), **cache}


def name_bytes(chain: Iterable[Image]) -> int:
    """Return how long the argument is at most that tells qemu-img of the chain, base first."""
    return len(named(tuple(chain), is_target=True))


def supports_direct_io(path: Path) -> bool:
    """Return whether the file or device can be opened with O_DIRECT, which cache=none and io=native need."""
    try:
        os.close(access.open_image(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Blank:
    """An image without data that only a program with its descriptor can open."""

    image: Image
    descriptor: int


@contextmanager
def blank(size_bytes: int) -> Iterator[Blank]:
    """Lend a raw image of that size, which stands for what lies below a volume that is copied alone.

    QEMU's null driver cannot: a backing file that names no file is opened by the name in the header of the top.
    """
    descriptor = os.memfd_create("blank", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size_bytes)
        yield Blank(Image(Path(f"/proc/self/fd/{descriptor}"), VolumeFormat.RAW, StorageType.FILE), descriptor)
    finally:
        os.close(descriptor)


def is_zero_when_fresh(image: Image) -> bool:
    """Return whether an image that was just made reads as zeroes: a raw block volume holds what somebody left there."""
    return image.format is not VolumeFormat.RAW or image.type is not StorageType.BLOCK


def require_exact_size(image: Image, size_bytes: int, capacity: int) -> None:
    """Check that a raw volume on block storage is exactly as large as the disk, or QEMU refuses the pivot.

    Raises:
        MigrationError: InvalidSpec.
    """
    if image.format is VolumeFormat.RAW and image.type is StorageType.BLOCK and size_bytes != capacity:
        raise MigrationError(
            Reason.INVALID_SPEC,
            f"The disk has {capacity} bytes, but {image.path} can only have {size_bytes}: a raw volume must match "
            "exactly. Use format: qcow2, or resize the disk to a multiple of the destination's extent.",
        )
