"""A VM with a guest agent, though no guest runs in it: the test answers in its place."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

FREEZE = "guest-fsfreeze-freeze"
# No guest opens its channel, so libvirt learns that it is open from what QEMU's monitor is made to say.
CHANNEL_IS_OPEN = {b'"frontend-open": false': b'"frontend-open": true'}

Answer = Callable[[], dict[str, Any] | None]


class GuestAgent:
    """Answers libvirt as a guest's agent does; `asked` has the commands that came, but for the synchronization.

    A `freeze` that returns None leaves libvirt without an answer.
    """

    def __init__(self, socket_path: Path, freeze: Answer) -> None:
        """Listen there, for libvirtd and for QEMU, which both connect."""
        self.asked: list[str] = []
        self.freeze = freeze
        self._connections: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(socket_path))
        socket_path.chmod(0o777)
        self._server.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close the guest's end of the channel, so that libvirt waits for no answer any more."""
        for connection in (self._server, *self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                # libvirt sends this byte before it synchronizes.
                if command := line.lstrip(b"\xff").strip():
                    answer = self._answer(json.loads(command))
                    if answer is not None:
                        connection.sendall(json.dumps(answer).encode() + b"\n")

    def _answer(self, command: dict[str, Any]) -> dict[str, Any] | None:
        name = command["execute"]
        if name in ("guest-sync", "guest-sync-delimited"):
            return {"return": command["arguments"]["id"]}
        self.asked.append(name)
        return self.freeze() if name == FREEZE else {"return": {}}


def channel(socket_path: Path) -> str:
    """The device of a VM whose agent listens there."""
    return (
        f"<channel type='unix'><source mode='connect' path='{socket_path}'/>"
        "<target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    )
