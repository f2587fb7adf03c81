"""How far a qcow2 volume is filled, read from its refcounts. Nothing that it names is opened.

Only for volumes that libvirt says are qcow2. Source: QEMU's docs/interop/qcow2.txt. Of a volume that QEMU has open the
answer may be older than what QEMU has written: it keeps changed tables in memory until the guest flushes.
"""

import fcntl
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage import access, qcow2_header
from diskmigration.api.errors import MigrationError, Reason

_PAGE_BYTES = 4096
_REFCOUNT_TABLE = struct.Struct(">QI")
_REFCOUNT_TABLE_AT = 48
_REFCOUNT_ORDER_AT = 96
_VERSION_2_REFCOUNT_ORDER = 4
_MOST_REFCOUNT_ORDER = 6
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_MOST_TABLE_BYTES = 8 * 2**20
"""QEMU refuses a larger refcount table (QCOW_MAX_REFTABLE_SIZE)."""


@dataclass(frozen=True)
class Allocation:
    """A qcow2 volume's layout; sizes in bytes. `end_bytes` is where its last cluster in use ends."""

    capacity_bytes: int
    cluster_bytes: int
    l2_entry_bytes: int
    refcount_bits: int
    end_bytes: int


def read(path: Path) -> Allocation:
    """Read how far the volume, a file or a block device, is filled.

    Raises:
        MigrationError: StorageFailed; DiskNotSupported, if it is no qcow2 or is damaged.
    """
    header = qcow2_header.read(path)
    try:
        descriptor = access.open_image(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if stat.S_ISBLK(os.fstat(descriptor).st_mode):
                # As for the header: QEMU writes past the page cache.
                fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
            start = _read_at(descriptor, 0, 512)
            version = int.from_bytes(start[4:8], "big")
            order = start[_REFCOUNT_ORDER_AT + 3] if version > 2 else _VERSION_2_REFCOUNT_ORDER
            if order > _MOST_REFCOUNT_ORDER:
                raise ValueError(f"its refcounts have {1 << order} bits")
            table_at, table_clusters = _REFCOUNT_TABLE.unpack_from(start, _REFCOUNT_TABLE_AT)
            table_bytes = table_clusters * header.cluster_bytes
            if table_bytes > _MOST_TABLE_BYTES:
                raise ValueError(f"its refcount table has {table_bytes} bytes")
            table = struct.unpack(f">{table_bytes // 8}Q", _read_at(descriptor, table_at, table_bytes))
            clusters = _clusters_in_use(descriptor, table, header.cluster_bytes, order)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MigrationError(Reason.STORAGE_FAILED, f"While reading the refcounts of {path}: {error}") from error
    except (ValueError, struct.error) as error:
        message = f"{path} is said to be qcow2, but {error}."
        raise MigrationError(Reason.DISK_NOT_SUPPORTED, message) from error
    return Allocation(
        capacity_bytes=header.capacity_bytes,
        cluster_bytes=header.cluster_bytes,
        l2_entry_bytes=16 if header.has_subclusters else 8,
        refcount_bits=1 << order,
        end_bytes=clusters * header.cluster_bytes,
    )


def _clusters_in_use(descriptor: int, table: tuple[int, ...], cluster_bytes: int, order: int) -> int:
    """Return the number of the last cluster with a refcount, from 1; 0 if there is none."""
    entries_per_block = cluster_bytes * 8 >> order
    for position in reversed(range(len(table))):
        offset = table[position] & _OFFSET_MASK
        if not offset:
            continue
        last = last_entry(_read_at(descriptor, offset, cluster_bytes), order)
        if last is not None:
            return position * entries_per_block + last + 1
    return 0


def last_entry(block: bytes, order: int) -> int | None:
    """Return the position of the last refcount of a block that is not 0, or None.

    Refcounts have `1 << order` bits, and are big-endian; several in one byte begin with its lowest bits.
    """
    used = block.rstrip(b"\0")
    if not used:
        return None
    bits = 1 << order
    last_byte = len(used) - 1
    if bits >= 8:
        return last_byte * 8 // bits
    return last_byte * (8 // bits) + (used[-1].bit_length() - 1) // bits


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read whole pages around it, as O_DIRECT wants."""
    first = offset // _PAGE_BYTES * _PAGE_BYTES
    last = -(-(offset + length) // _PAGE_BYTES) * _PAGE_BYTES
    if last == first:
        return b""
    with mmap.mmap(-1, last - first) as aligned:
        got = 0
        while got < last - first:
            count = os.preadv(descriptor, [memoryview(aligned)[got:]], first + got)
            if count == 0:
                break
            got += count
        found = bytes(aligned[offset - first : min(offset - first + length, got)])
    if len(found) < length:
        raise ValueError("it ends before its refcounts do")
    return found
