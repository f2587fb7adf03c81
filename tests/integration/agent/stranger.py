"""Another program at the API server's address, as a balancer's default backend is while the API server is away."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from testbed.control_plane import ControlPlane


@dataclass(frozen=True)
class Answer:
    """What it answers to every request."""

    status: int
    content_type: str
    body: str


@contextmanager
def stranger(control_plane: ControlPlane, answer: Answer) -> Iterator[None]:
    """Have it answer for the block, with the certificate of the API server, which must be stopped."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer.body.encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the base class's own names

        def log_message(self, *_: object) -> None:
            """Keep the tests' output free of requests."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    address = urlsplit(control_plane.url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(control_plane.authority, control_plane.authority.with_suffix(".key"))
    with Server((address.hostname or "", address.port or 443), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, name="stranger", daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
