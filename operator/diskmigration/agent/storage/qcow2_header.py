"""What a qcow2 volume says of itself, and of the one below it. Nothing that it names is opened.

Only for volumes that libvirt says are qcow2: a guest writes the first bytes of a raw disk. Source: QEMU's
docs/interop/qcow2.txt.
"""

import fcntl
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage import access
from diskmigration.api.errors import MigrationError, Reason

MAGIC = b"QFI\xfb"
HEADER_BYTES = 65536
"""How much of a volume holds all of it: the header lies within the first cluster, and so do the names in it."""

_FIXED = struct.Struct(">4sIQIIQI")
_SNAPSHOT_COUNT_AT = 60
_INCOMPATIBLE_FEATURES_AT = 72
_AUTOCLEAR_FEATURES_AT = 88
_HEADER_LENGTH_AT = 100
_VERSION_2_LENGTH = 72
_BACKING_FORMAT = 0xE2792ACA
_BITMAPS = 0x23852875
_BITMAPS_FIXED = struct.Struct(">IIQQ")
_BITMAP_ENTRY = struct.Struct(">QIIBBHI")
_LARGEST_BITMAP_DIRECTORY = 65535 * 1024
_BITMAP_IS_ENABLED = 1 << 1
_DATA_FILE_NAME = 0x44415441
_END = 0
_LONGEST_NAME = 1023
_IS_CORRUPT = 1 << 1
_HAS_DATA_FILE = 1 << 2
_HAS_SUBCLUSTERS = 1 << 4
_HAS_BITMAPS = 1 << 0
_PAGE = 4096
_MOST_CLUSTER_BITS = 21


@dataclass(frozen=True)
class Header:
    """The virtual size, and the volume below as it is written there; "" where there is none, or no format is said."""

    capacity_bytes: int
    backing_name: str = ""
    backing_format: str = ""
    is_encrypted: bool = False
    is_corrupt: bool = False
    has_data_file: bool = False
    data_file_name: str = ""
    cluster_bytes: int = 65536
    has_subclusters: bool = False
    snapshot_count: int = 0
    bitmap_directory: tuple[int, int] | None = None
    """Offset and length of the directory of persistent bitmaps; None where there are none, or they count no more."""


@dataclass(frozen=True)
class Bitmap:
    """A persistent dirty bitmap; one that is not enabled does not record what is written."""

    name: str
    is_enabled: bool


def read(path: Path) -> Header:
    """Read the header of a volume, which is a file or a block device.

    Raises:
        MigrationError: StorageFailed; DiskNotSupported, where it has none.
    """
    try:
        return parse(_read(path, 0, HEADER_BYTES))
    except ValueError as error:
        raise MigrationError(Reason.DISK_NOT_SUPPORTED, f"{path} is said to be qcow2, but {error}.") from error


def is_blank(path: Path) -> bool:
    """Return whether the volume has nothing where its header would be, as one that was made and not formatted.

    Raises:
        MigrationError: StorageFailed.
    """
    return not any(_read(path, 0, HEADER_BYTES))


def read_bitmaps(path: Path, header: Header) -> tuple[Bitmap, ...]:
    """Read which persistent bitmaps a volume has. A running QEMU writes those that it has made only when it ends.

    Raises:
        MigrationError: StorageFailed; DiskNotSupported, where the directory of bitmaps is damaged.
    """
    if header.bitmap_directory is None:
        return ()
    offset, length = header.bitmap_directory
    try:
        return parse_bitmaps(_read(path, offset, min(length, _LARGEST_BITMAP_DIRECTORY)))
    except ValueError as error:
        raise MigrationError(Reason.DISK_NOT_SUPPORTED, f"{path} is qcow2, but {error}.") from error


def read_start(path: Path, size_bytes: int) -> bytes:
    """Return the first bytes of a volume, fewer where it is shorter.

    Raises:
        MigrationError: StorageFailed.
    """
    return _read(path, 0, size_bytes)


def _read(path: Path, offset: int, length: int) -> bytes:
    """Read up to that many bytes of a file or block device, from its storage and not from the page cache if it can.

    Raises:
        MigrationError: StorageFailed.
    """
    try:
        # On a FIFO, an open would wait for whoever writes to it.
        descriptor = access.open_image(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            kind = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
                raise MigrationError(Reason.STORAGE_FAILED, f"{path} is no file and no block device.")
            if stat.S_ISBLK(kind):
                # QEMU writes past the page cache, which may keep what was there before: see qemu_img.
                fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
            start = offset // _PAGE * _PAGE
            whole = -(-(offset + length - start) // _PAGE) * _PAGE
            with mmap.mmap(-1, whole) as aligned:
                count = os.preadv(descriptor, [aligned], start)
                return aligned[offset - start : min(count, offset - start + length)]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While reading the header of {path}: {error}") from error


def parse(data: bytes) -> Header:
    """Read the beginning of a qcow2 volume.

    Raises:
        ValueError: it is none, or is damaged.
    """
    if len(data) < _VERSION_2_LENGTH or data[:4] != MAGIC:
        raise ValueError("it has no qcow2 header")
    _, version, name_at, name_length, cluster_bits, capacity, encryption = _FIXED.unpack_from(data)
    if version not in (2, 3):
        raise ValueError(f"its qcow2 version {version} is not known")
    (snapshot_count,) = struct.unpack_from(">I", data, _SNAPSHOT_COUNT_AT)
    features, autoclear, length = 0, 0, _VERSION_2_LENGTH
    if version == 3:
        if len(data) < _HEADER_LENGTH_AT + 4:
            raise ValueError("its qcow2 header is cut off")
        (features,) = struct.unpack_from(">Q", data, _INCOMPATIBLE_FEATURES_AT)
        (autoclear,) = struct.unpack_from(">Q", data, _AUTOCLEAR_FEATURES_AT)
        (length,) = struct.unpack_from(">I", data, _HEADER_LENGTH_AT)
    return Header(
        capacity_bytes=capacity,
        backing_name=_name(data, name_at, name_length),
        backing_format=_extension(data, length, _BACKING_FORMAT).decode(errors="replace"),
        is_encrypted=encryption != 0,
        is_corrupt=bool(features & _IS_CORRUPT),
        has_data_file=bool(features & _HAS_DATA_FILE),
        data_file_name=_extension(data, length, _DATA_FILE_NAME).decode("utf-8", "surrogateescape"),
        cluster_bytes=1 << min(cluster_bits, _MOST_CLUSTER_BITS),
        has_subclusters=bool(features & _HAS_SUBCLUSTERS),
        snapshot_count=snapshot_count,
        bitmap_directory=_bitmap_directory(data, length) if autoclear & _HAS_BITMAPS else None,
    )


def parse_bitmaps(directory: bytes) -> tuple[Bitmap, ...]:
    """Read a directory of persistent bitmaps.

    Raises:
        ValueError: it is damaged.
    """
    bitmaps: list[Bitmap] = []
    at = 0
    while at < len(directory):
        if at + _BITMAP_ENTRY.size > len(directory):
            raise ValueError("its directory of bitmaps is cut off")
        _, _, flags, _, _, name_length, extra_length = _BITMAP_ENTRY.unpack_from(directory, at)
        name_at = at + _BITMAP_ENTRY.size + extra_length
        name = directory[name_at : name_at + name_length]
        if len(name) < name_length:
            raise ValueError("its directory of bitmaps is cut off")
        bitmaps.append(Bitmap(name.decode(errors="replace"), bool(flags & _BITMAP_IS_ENABLED)))
        at = -(-(name_at + name_length) // 8) * 8
    return tuple(bitmaps)


def _bitmap_directory(data: bytes, extensions_at: int) -> tuple[int, int] | None:
    found = _extension(data, extensions_at, _BITMAPS)
    if len(found) < _BITMAPS_FIXED.size:
        return None
    count, _, length, offset = _BITMAPS_FIXED.unpack_from(found)
    return (offset, length) if count else None


def _name(data: bytes, at: int, length: int) -> str:
    if at == 0:
        return ""
    if length > _LONGEST_NAME or at + length > len(data):
        raise ValueError("the name of its backing volume lies outside its header")
    # As Python names files, so that any name can be opened.
    return data[at : at + length].decode("utf-8", "surrogateescape")


def _extension(data: bytes, at: int, wanted: int) -> bytes:
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">II", data, at)
        if kind == _END:
            break
        if kind == wanted:
            return data[at + 8 : at + 8 + length]
        at += 8 + -(-length // 8) * 8
    return b""
