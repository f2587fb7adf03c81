"""The guest's disk: one half is for the records, and the other has data from the start, which nobody writes to."""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.guest.records import Layout, Report, raw_copy, verify_records

CAPACITY_BYTES = 2 * 2**30
RECORD_BYTES = 256 * 1024
_SPAN_BYTES = 768 * 2**20
_HELD_OFFSET_BYTES = CAPACITY_BYTES // 2
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class GuestDisk:
    """A disk as it was made; `held_digest` is the SHA-256 of the data that it held from the start."""

    layout: Layout
    held_bytes: int
    held_digest: bytes


@dataclass(frozen=True)
class Verdict:
    """What was found on a disk after the guest's end."""

    records: Report
    held_is_whole: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is lost."""
        return self.records.ok and self.held_is_whole


def make_disk(volume: Path, *, held_bytes: int) -> GuestDisk:
    """Make a qcow2 with so much random data on it.

    Raises:
        TestbedError: qemu-img failed.
    """
    raw = volume.with_suffix(".raw")
    digest = hashlib.sha256()
    with raw.open("wb") as disk:
        disk.truncate(CAPACITY_BYTES)
        disk.seek(_HELD_OFFSET_BYTES)
        for _ in range(held_bytes // _BLOCK_BYTES):
            block = os.urandom(_BLOCK_BYTES)
            disk.write(block)
            digest.update(block)
    processes.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, volume])
    raw.unlink()
    layout = Layout(seed=secrets.randbits(32), span_bytes=_SPAN_BYTES, record_bytes=RECORD_BYTES)
    return GuestDisk(layout=layout, held_bytes=held_bytes, held_digest=digest.digest())


def verify_disk(disk: GuestDisk, volume: Path, *, acknowledged: int, scratch: Path) -> Verdict:
    """Check every acknowledged record, and the data that was there before, on a qcow2 that no domain uses.

    Raises:
        TestbedError: the volume could not be read.
    """
    raw = scratch / "verified.raw"
    raw_copy(volume, "qcow2", raw)
    with raw.open("rb") as copy:
        records = verify_records(copy, disk.layout, acknowledged)
        copy.seek(_HELD_OFFSET_BYTES)
        digest = hashlib.sha256()
        for _ in range(disk.held_bytes // _BLOCK_BYTES):
            digest.update(copy.read(_BLOCK_BYTES))
    raw.unlink()
    return Verdict(records=records, held_is_whole=digest.digest() == disk.held_digest)
