"""How long a thin volume waits for its growth, from libvirt's statistics, read from outside, as fast as they come."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from testbed.libvirt_host import LibvirtHost

_LOOK_SECONDS = 0.001


@contextmanager
def delays_of(host: LibvirtHost, name: str, watermark: int) -> Iterator[list[float]]:
    """Collect for the time of the block, for each growth, the seconds since less than the watermark was free."""
    delays: list[float] = []
    over = threading.Event()

    def watch(domain: libvirt.virDomain) -> None:
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING
        sizes: dict[int, int] = {}
        due_since: dict[int, float] = {}
        while not over.wait(_LOOK_SECONDS):
            [(_, values)] = domain.connect().domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_BLOCK, flags)
            now = time.monotonic()
            for position in range(values["block.count"]):
                index = values[f"block.{position}.backingIndex"]
                size, written = values[f"block.{position}.physical"], values[f"block.{position}.allocation"]
                if size > sizes.get(index, size) and index in due_since:
                    delays.append(now - due_since.pop(index))
                sizes[index] = size
                if size - written < watermark:
                    due_since.setdefault(index, now)
                else:
                    due_since.pop(index, None)

    with host.domain(name) as domain:
        watcher = threading.Thread(target=watch, args=(domain,))
        watcher.start()
        try:
            yield delays
        finally:
            over.set()
            watcher.join()
