"""The network between an agent and the API server, which can be cut: nothing is refused, and nothing arrives."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

_CHUNK_BYTES = 1 << 16


class Link:
    """Passes on what comes to a port of its own. Made by `running_link`."""

    def __init__(self, url: str) -> None:
        server = urlsplit(url)
        self._server = (server.hostname or "", server.port or 443)
        self._whole = threading.Event()
        self._whole.set()
        self.port = 0

    def cut(self) -> None:
        """From now on nothing arrives on either side."""
        self._whole.clear()

    def restore(self) -> None:
        """What was under way arrives, and so does all that follows."""
        self._whole.set()

    def kubeconfig(self, original: Path) -> Path:
        """A copy of one that takes this way."""
        host, port = self._server
        made = original.with_suffix(".link")
        made.write_text(original.read_text().replace(f"{host}:{port}", f"{host}:{self.port}"))
        return made

    def carry(self, client: socket.socket) -> None:
        """Passes on one connection until either side ends it."""
        with suppress(OSError), socket.create_connection(self._server) as server:
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()

    def _pump(self, source: socket.socket, destination: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                self._whole.wait()
                destination.sendall(data)
        with suppress(OSError):
            destination.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_link(url: str) -> Iterator[Link]:
    """A link to the server of a URL, whole at first."""
    link = Link(url)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            link.carry(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        link.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, name="link", daemon=True).start()
        try:
            yield link
        finally:
            server.shutdown()
