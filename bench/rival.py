"""The classical extender: statistics read every 2 s, a chunk of fixed size, one side after the other.

Source: the published design of vdsm's volume monitor before it had events (lib/vdsm/virt/thinp.py): every 2 s it reads
the statistics of all VMs. A drive that has less than the watermark free is extended by one chunk; while it is
replicated, the replica first, and the drive itself when that is done. A VM that is paused for want of space is resumed
when its drive has grown. It is a program of its own, as that is.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt

from testbed import processes

POLL_SECONDS = 2.0
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING


@dataclass(frozen=True)
class Volume:
    """An open volume of a drive, in bytes; `path` is its loop device."""

    path: Path
    allocation: int
    physical: int
    capacity: int

    def is_due(self, watermark: int) -> bool:
        """Say whether less than the watermark is free."""
        return self.physical - self.allocation < watermark


def grown(volume: Volume, chunk: int) -> int:
    """Return the size after one extension: a chunk more, but no more than the disk and qcow2's tables can take."""
    return min(volume.physical + chunk, volume.capacity + volume.capacity // 10)


def main() -> None:
    """Watch every VM until the end."""
    parser = argparse.ArgumentParser(prog="python -m bench.rival", description=__doc__)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--watermark", type=int, required=True, help="in bytes")
    parser.add_argument("--chunk", type=int, required=True, help="in bytes")
    options = parser.parse_args()
    connection = libvirt.open(options.uri)
    while True:
        started = time.monotonic()
        for domain, values in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BLOCK, _FLAGS):
            _tend(domain, values, options.watermark, options.chunk)
        time.sleep(max(0.0, started + POLL_SECONDS - time.monotonic()))


def _tend(domain: libvirt.virDomain, values: dict[str, object], watermark: int, chunk: int) -> None:
    volumes = sorted(_volumes(values), key=lambda found: found[0], reverse=True)
    if not any(volume.is_due(watermark) for _, volume in volumes):
        return
    # A mirror's index is the newest: the destination comes first.
    for _, volume in volumes:
        _extend(volume.path, grown(volume, chunk))
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED and domain.state()[1] == libvirt.VIR_DOMAIN_PAUSED_IOERROR:
        domain.resume()


def _volumes(values: dict[str, object]) -> Iterator[tuple[int, Volume]]:
    count = values.get("block.count", 0)
    for position in range(count if isinstance(count, int) else 0):
        path = Path(str(values.get(f"block.{position}.path", "")))
        if path.is_block_device():
            index, allocation, physical, capacity = (
                int(str(values.get(f"block.{position}.{field}", 0)))
                for field in ("backingIndex", "allocation", "physical", "capacity")
            )
            yield index, Volume(path.resolve(), allocation, physical, capacity)


def _extend(device: Path, size_bytes: int) -> None:
    backing = Path("/sys/block", device.name, "loop", "backing_file").read_text().strip()
    processes.run(["truncate", "--size", str(size_bytes), backing])
    processes.run(["losetup", "--set-capacity", device])


if __name__ == "__main__":
    main()
