"""The records that the guest writes, and the check that none of those it was promised is lost.

Record n of a run is written to slot n modulo the number of slots. Its bytes follow from the run's seed and n alone:

====== ======= ==========================================================================================
offset length  content, integers little-endian
====== ======= ==========================================================================================
0      8       `DMRECORD`
8      8       sequence number n
16     8       seed
24     8       slot
32     4       length of the record in bytes
36     4       CRC-32 (as in zlib) of the record with these four bytes zero
k*512  8       for k > 0: n again, so that a torn write shows which of its sectors arrived
====== ======= ==========================================================================================

All else is noise: at offset o, a multiple of 32, the SHA-256 of the seed and o, both as 8 bytes. `writer/record.go` is
the other side of this.
"""

import hashlib
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from testbed.processes import TestbedError

_SECTOR_BYTES = 512
_HEADER = struct.Struct("<8sQQQII")
_MAGIC = b"DMRECORD"
_DIGEST_BYTES = 32
_ALIGNMENT_BYTES = 4096
_PROBLEMS_SHOWN = 20
_CONVERT_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Layout:
    """Where a run's records are: in the first `span_bytes` of the disk. Each boot needs a seed of its own.

    There are two slots at least: which write was under way at the end is told by the other slots.
    """

    seed: int
    span_bytes: int
    record_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        """Refuse what could not be written or judged."""
        if self.record_bytes <= 0 or self.record_bytes % _ALIGNMENT_BYTES != 0:
            raise ValueError(f"record_bytes is {self.record_bytes}, which is no multiple of {_ALIGNMENT_BYTES}")
        if self.slots < 2:
            raise ValueError(f"no two records of {self.record_bytes} bytes fit into {self.span_bytes}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}, which is not from 0 to 2**63 - 1")

    @property
    def slots(self) -> int:
        """How many records fit before the writer begins again at the first."""
        return self.span_bytes // self.record_bytes


@dataclass(frozen=True)
class Report:
    """What `verify_records` found; `newest` is the newest whole record, None when there is none."""

    acknowledged: int
    slots_checked: int
    newest: int | None
    problem_count: int
    problems: tuple[str, ...]
    """The first of them, for people."""

    @property
    def ok(self) -> bool:
        """Whether every acknowledged record is there, or a newer one in its place."""
        return self.problem_count == 0


class RecordMaker:
    """Makes the bytes of a run's records."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        blocks = range(0, layout.record_bytes, _DIGEST_BYTES)
        self._noise = b"".join(hashlib.sha256(struct.pack("<QQ", layout.seed, offset)).digest() for offset in blocks)

    def record(self, sequence: int) -> bytes:
        """Return the record of a sequence number."""
        layout = self._layout
        record = bytearray(self._noise)
        for offset in range(_SECTOR_BYTES, layout.record_bytes, _SECTOR_BYTES):
            struct.pack_into("<Q", record, offset, sequence)
        header = (_MAGIC, sequence, layout.seed, sequence % layout.slots, layout.record_bytes)
        _HEADER.pack_into(record, 0, *header, 0)
        _HEADER.pack_into(record, 0, *header, zlib.crc32(record))
        return bytes(record)


def whole_sequence(found: bytes, layout: Layout, slot: int) -> int | None:
    """Return the sequence number of the record in a slot's bytes, or None unless it is whole and belongs there."""
    magic, sequence, seed, own_slot, length, checksum = _HEADER.unpack_from(found)
    named = (magic, seed, own_slot, length, sequence % layout.slots)
    if named != (_MAGIC, layout.seed, slot, layout.record_bytes, slot) or len(found) != length:
        return None
    unsummed = bytearray(found)
    _HEADER.pack_into(unsummed, 0, magic, sequence, seed, own_slot, length, 0)
    return int(sequence) if zlib.crc32(unsummed) == checksum else None


def verify_records(disk: BinaryIO, layout: Layout, acknowledged: int) -> Report:
    """Check every slot of a raw disk against the newest record acknowledged before the guest ended.

    Each slot that an acknowledged record went to must hold the newest of those, or a later record of the run, whole.
    One slot alone may be torn: that of the write under way at the end, which is the one after the newest record on the
    disk; and each of its sectors must then be of the record before or of the one being written. Where that newest
    record is damaged, the torn slot cannot be judged, and is a problem too.

    Raises:
        ValueError: `acknowledged` is negative: a run that acknowledged nothing proves nothing.
    """
    if acknowledged < 0:
        raise ValueError("No record was acknowledged, so there is nothing to check.")
    # All slots are looked at: the newest record may be one that the console had no time to tell.
    found = {slot: whole_sequence(_read_slot(disk, layout, slot), layout, slot) for slot in range(layout.slots)}
    newest = max((sequence for sequence in found.values() if sequence is not None), default=None)
    under_way = max(acknowledged, -1 if newest is None else newest) + 1
    maker = RecordMaker(layout)
    checked = range(min(layout.slots, acknowledged + 1))
    problems = []
    for slot in checked:
        sequence = found[slot]
        expected = acknowledged - (acknowledged - slot) % layout.slots
        if sequence is not None and sequence >= expected:
            continue
        if sequence is not None:
            problems.append(f"slot {slot}: holds record {sequence}, but record {expected} was acknowledged")
            continue
        data = _read_slot(disk, layout, slot)
        if under_way % layout.slots == slot:
            before, after = maker.record(under_way - layout.slots), maker.record(under_way)
            if _is_mixture(data, before, after):
                continue
        problems.append(f"slot {slot}: no whole record; record {expected} was acknowledged; {_describe(data)}")
    return Report(
        acknowledged=acknowledged,
        slots_checked=len(checked),
        newest=newest,
        problem_count=len(problems),
        problems=tuple(problems[:_PROBLEMS_SHOWN]),
    )


def raw_copy(volume: Path, volume_format: str, destination: Path) -> None:
    """Copy what a guest would read of a volume, its whole backing chain, to a sparse raw file. No domain may use it.

    Raises:
        TestbedError: qemu-img could not read it all.
    """
    command = ["qemu-img", "convert", "-f", volume_format, "-O", "raw", str(volume), str(destination)]
    completed = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CONVERT_TIMEOUT_SECONDS, check=False
    )
    if completed.returncode != 0:
        raise TestbedError(f"{' '.join(command)}: exit status {completed.returncode}.\n{completed.stderr}")


def _read_slot(disk: BinaryIO, layout: Layout, slot: int) -> bytes:
    disk.seek(slot * layout.record_bytes)
    data = disk.read(layout.record_bytes)
    # A disk that ends too early reads as zeroes, which are no record.
    return data.ljust(layout.record_bytes, b"\0")


def _is_mixture(data: bytes, before: bytes, after: bytes) -> bool:
    sectors = (slice(start, start + _SECTOR_BYTES) for start in range(0, len(data), _SECTOR_BYTES))
    return all(data[sector] in (before[sector], after[sector]) for sector in sectors)


def _describe(data: bytes) -> str:
    if not any(data):
        return "it is all zeroes"
    return f"it begins with {data[: _HEADER.size].hex()}"
