"""A QEMU's own monitor, for the time in which no libvirtd holds it, and who stands between libvirtd and it."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
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


class Relay:
    """Stands between libvirtd and a QEMU's monitor, and passes on what both say.

    `pass_on` is given each line and whether QEMU said it; it returns what the other one hears, or None to end.
    """

    def __init__(self, path: Path, pass_on: Callable[[bytes, bool], bytes | None]) -> None:
        """Take the place of the monitor's socket, which no libvirtd may hold at this moment."""
        self._path = path
        self._pass_on = pass_on
        self._real = path.with_name("monitor.real")
        path.rename(self._real)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(1)
        self._connections = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let a libvirtd that starts from now on find QEMU itself again."""
        for connection in self._connections:
            # Threads that wait on it are to end.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if self._real.exists():
            self._real.rename(self._path)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                libvirtd, _ = self._server.accept()
                qemu = socket.socket(socket.AF_UNIX)
                qemu.connect(str(self._real))
                self._connections += [libvirtd, qemu]
                for ends in ((libvirtd, qemu, False), (qemu, libvirtd, True)):
                    threading.Thread(target=self._relay, args=ends, daemon=True).start()

    def _relay(self, reader: socket.socket, writer: socket.socket, is_qemu: bool) -> None:
        with suppress(OSError), reader.makefile("rb") as lines:
            for line in lines:
                if (passed := self._pass_on(line, is_qemu)) is None:
                    return
                writer.sendall(passed)
        for connection in (reader, writer):
            # Either end learns that the other one has gone.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def killed_after(host: LibvirtHost, machine: str, command: str) -> Iterator[threading.Event]:
    """Have libvirtd killed when the VM's QEMU has done a command of QMP, before libvirtd hears of it.

    The event is set when it was killed. At the end of the block the monitor is QEMU's own again; whoever uses this
    starts libvirtd then.
    """
    killed = threading.Event()
    asked: set[str] = set()

    def pass_on(line: bytes, is_qemu: bool) -> bytes | None:
        message = json.loads(line)
        if not is_qemu and message.get("execute") == command:
            asked.add(message["id"])
        if is_qemu and "return" in message and message.get("id") in asked:
            host.kill_daemon()
            killed.set()
            return None
        return line

    host.stop_daemon()
    relay = Relay(host.monitor_socket(machine), pass_on)
    host.start_daemon()
    try:
        yield killed
    finally:
        relay.close()


@contextmanager
def monitor_says(host: LibvirtHost, machine: str, changes: Mapping[bytes, bytes]) -> Iterator[None]:
    """Have libvirtd, which is restarted, hear these words of the VM's QEMU changed. The VM must have ended after it."""

    def pass_on(line: bytes, is_qemu: bool) -> bytes:
        for old, new in changes.items() if is_qemu else ():
            line = line.replace(old, new)
        return line

    host.stop_daemon()
    relay = Relay(host.monitor_socket(machine), pass_on)
    host.start_daemon()
    try:
        yield
    finally:
        relay.close()


class Gate:
    """One command that libvirtd gives a QEMU waits at it. Made by `held_before`."""

    def __init__(self, command: str) -> None:
        self.is_reached = threading.Event()
        self._is_open = threading.Event()
        self._command = command

    def open(self) -> None:
        """Let the command through, and all that come after it."""
        self._is_open.set()

    def pass_on(self, line: bytes, is_qemu: bool) -> bytes:
        """Return the line, as a `Relay` asks for it, once it may pass."""
        if not is_qemu and json.loads(line).get("execute") == self._command:
            self.is_reached.set()
            self._is_open.wait()
        return line


@contextmanager
def held_before(host: LibvirtHost, machine: str, command: str) -> Iterator[Gate]:
    """Have the VM's QEMU not answer from a command of QMP on, until the gate is opened; libvirtd is started again."""
    gate = Gate(command)
    host.stop_daemon()
    relay = Relay(host.monitor_socket(machine), gate.pass_on)
    host.start_daemon()
    try:
        yield gate
    finally:
        gate.open()
        host.stop_daemon()
        relay.close()
        host.start_daemon()
