"""A QEMU's own monitor, for the time in which no libvirtd holds it, and who stands between libvirtd and it."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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

    def flush(self) -> None:
        """Have all that was written to the disk vda be in its volume, as a guest's flush does."""
        line = "qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend flush"
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


class Between:
    """Between libvirtd and a QEMU's monitor, until QEMU has answered a command. Made by `killed_after`."""

    def __init__(self, host: LibvirtHost, path: Path, command: str) -> None:
        self.killed = threading.Event()
        self._host = host
        self._path = path
        self._command = command
        self._real = path.with_name("monitor.real")
        path.rename(self._real)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._connections = [self._server]
        self._asked: set[str] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let libvirtd, which does not run, find QEMU itself again."""
        for connection in self._connections:
            # Threads that wait on it are to end.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if self._real.exists():
            self._real.rename(self._path)

    def _accept(self) -> None:
        with suppress(OSError):
            libvirtd, _ = self._server.accept()
            qemu = socket.socket(socket.AF_UNIX)
            qemu.connect(str(self._real))
            self._connections += [libvirtd, qemu]
            threading.Thread(target=self._pass_on, args=(libvirtd, qemu, self._note_question), daemon=True).start()
            self._pass_on(qemu, libvirtd, self._is_awaited)

    def _pass_on(self, reader: socket.socket, writer: socket.socket, ends_at: Callable[[dict[str, Any]], bool]) -> None:
        with suppress(OSError), reader.makefile("rb") as lines:
            for line in lines:
                if ends_at(json.loads(line)):
                    self._host.kill_daemon()
                    self.killed.set()
                    return
                writer.sendall(line)

    def _note_question(self, said: dict[str, Any]) -> bool:
        if said.get("execute") == self._command:
            self._asked.add(said["id"])
        return False

    def _is_awaited(self, said: dict[str, Any]) -> bool:
        return "return" in said and said.get("id") in self._asked


@contextmanager
def killed_after(host: LibvirtHost, machine: str, command: str) -> Iterator[threading.Event]:
    """Have libvirtd killed when the VM's QEMU has done a command of QMP, before libvirtd hears of it.

    The event is set when it was killed. At the end of the block the monitor is QEMU's own again; whoever uses this
    starts libvirtd then.
    """
    host.stop_daemon()
    between = Between(host, host.monitor_socket(machine), command)
    host.start_daemon()
    try:
        yield between.killed
    finally:
        between.close()
