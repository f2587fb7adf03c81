"""A QEMU's own monitor, for the time in which no libvirtd holds it."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from testbed.libvirt_host import LibvirtHost


class Monitor:
    """Made by `monitor_of`."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines

    def execute(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns for a command of QMP; events that come before it are passed over."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self._lines, flush=True)
        for line in self._lines:
            answer = json.loads(line)
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]
        raise AssertionError(f"{command}: QEMU has ended")

    def write(self, *, offset: int, length: int, pattern: int) -> None:
        """Writes to the disk vda as its guest would."""
        line = f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P {pattern} {offset} {length}"'
        said = self.execute("human-monitor-command", **{"command-line": line})
        assert not said, said


@contextmanager
def monitor_of(host: LibvirtHost, machine: str) -> Iterator[Monitor]:
    """The monitor of a running VM whose libvirtd does not run."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(host.monitor_socket(machine)))
        with connection.makefile("rw") as lines:
            monitor = Monitor(lines)
            monitor.execute("qmp_capabilities")
            yield monitor
