"""When a VM was paused and resumed, by libvirt's own events."""

import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from testbed.libvirt_host import LibvirtHost


class Lifecycle:
    """The events of one VM as they come. Made by `lifecycle_of`."""

    def __init__(self, virsh: subprocess.Popen[str]) -> None:
        self._virsh = virsh
        self._times: dict[str, datetime] = {}
        self._counts: Counter[str] = Counter()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def last(self, kind: str) -> datetime | None:
        """When the last event of that kind came, `Suspended` or `Resumed`; None before the first."""
        return self._times.get(kind)

    def count(self, kind: str) -> int:
        """How many events of that kind have come."""
        return self._counts[kind]

    def join(self) -> None:
        """Returns when virsh has ended."""
        self._reader.join()

    def _read(self) -> None:
        assert self._virsh.stdout is not None
        for line in self._virsh.stdout:
            # As in: 2026-01-01 10:00:00.123+0000: event 'lifecycle' for domain 'vm': Suspended I/O Error
            moment, _, event = line.strip().partition(": event ")
            if event:
                kind = event.rpartition("': ")[2].partition(" ")[0]
                self._times[kind] = datetime.fromisoformat(moment)
                self._counts[kind] += 1


@contextmanager
def lifecycle_of(host: LibvirtHost, machine: str) -> Iterator[Lifecycle]:
    """Listens for the time of the block."""
    virsh = subprocess.Popen(
        [
            # By lines, as virsh writes to a terminal.
            *["stdbuf", "-oL", "virsh", "--keepalive-interval=0", "-c", host.uri],
            *["event", "--domain", machine, "--event", "lifecycle", "--loop", "--timestamp"],
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = Lifecycle(virsh)
    try:
        yield seen
    finally:
        virsh.terminate()
        virsh.wait()
        seen.join()
        assert virsh.stdout is not None
        virsh.stdout.close()
