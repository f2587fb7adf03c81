"""A disk's mirror and active layer as the live XML shows them, watched every few milliseconds from outside."""

import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt

from testbed.libvirt_host import LibvirtHost

_LOOK_SECONDS = 0.005


@dataclass
class Sightings:
    """When each thing was first seen, in seconds of `time.monotonic`; None before that."""

    first_byte: float | None = None
    """More than an empty volume's metadata lies at the destination."""
    in_step: float | None = None
    pivoted: float | None = None


@contextmanager
def watched(host: LibvirtHost, domain: str, destination: Path, *, empty_bytes: int) -> Iterator[Sightings]:
    """Watch a move to a storage domain's directory, whose volumes hold at most `empty_bytes` before it."""
    seen = Sightings()
    over = threading.Event()

    def watch(found: libvirt.virDomain) -> None:
        while not over.wait(_LOOK_SECONDS):
            if seen.first_byte is None and _allocated_bytes(destination) > empty_bytes:
                seen.first_byte = time.monotonic()
            ready, active = _mirror_and_active(found.XMLDesc())
            if seen.in_step is None and ready:
                seen.in_step = time.monotonic()
            if seen.in_step is not None and active.is_relative_to(destination):
                seen.pivoted = time.monotonic()
                return

    with host.domain(domain) as found:
        watcher = threading.Thread(target=watch, args=(found,))
        watcher.start()
        try:
            yield seen
        finally:
            over.set()
            watcher.join()


def _mirror_and_active(document: str) -> tuple[bool, Path]:
    disk = ET.fromstring(document).find("./devices/disk/target[@dev='vda']/..")  # noqa: S314 - libvirt's own
    if disk is None:
        raise ValueError("the domain has no vda")
    mirror = disk.find("mirror")
    source = disk.find("source")
    path = "" if source is None else source.get("file") or source.get("dev") or ""
    return mirror is not None and mirror.get("ready") == "yes", Path(path)


def _allocated_bytes(directory: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in directory.iterdir() if entry.is_file())
