"""Disks whose every byte is allocated, and random, so that nothing on the way can make it less."""

import os
from pathlib import Path

from testbed import processes
from tests.integration.migrations.machines import MEBIBYTE, Domain

_POOL_BYTES = 64 * MEBIBYTE
_FILL_TIMEOUT_SECONDS = 600


def make_chain(domain: Domain, name: str, *, capacity_bytes: int, length: int, scratch: Path) -> list[Path]:
    """Make a chain of qcow2 volumes, base first, that hold the whole disk, each an equal part of it."""
    pool = scratch / "random"
    if not pool.exists():
        pool.write_bytes(os.urandom(_POOL_BYTES))
    volumes: list[Path] = []
    for position in range(length):
        path = domain.make_volume(f"{name}-{position}", whole_volume_bytes(capacity_bytes))
        backing = ["-u", "-b", str(volumes[-1]), "-F", "qcow2"] if volumes else []
        create = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(path), str(capacity_bytes)]
        processes.run(create)
        # Whole blocks of the pool, dealt out among the layers.
        starts = range(position * _POOL_BYTES, capacity_bytes, length * _POOL_BYTES)
        writes = [f"write -q -s {pool} {start} {min(_POOL_BYTES, capacity_bytes - start)}" for start in starts]
        # No chain is opened: a cluster that is written whole needs nothing from below.
        protocol = "host_device" if path.is_block_device() else "file"
        image = f"driver=qcow2,backing=,file.driver={protocol},file.filename={path}"
        command = ["qemu-io", "-t", "none", "--image-opts", *(part for each in writes for part in ("-c", each)), image]
        processes.run(command, timeout_seconds=_FILL_TIMEOUT_SECONDS)
        volumes.append(path)
    return volumes


def whole_volume_bytes(capacity_bytes: int) -> int:
    """Return the size of a volume that can take a qcow2 of the whole disk."""
    return capacity_bytes + capacity_bytes // 512 + 16 * MEBIBYTE
