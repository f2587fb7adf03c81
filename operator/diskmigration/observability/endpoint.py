"""One HTTP port for the kubelet and for Prometheus: /livez, /readyz and /metrics."""

import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from diskmigration.observability.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


REQUEST_SECONDS = 10

MOST_CONNECTIONS = 32
"""Each has a thread. Of more than so many, the oldest is closed: a probe is new, and soon answered."""


class _SilentHandler(WSGIRequestHandler):
    # Who connects and asks nothing costs a thread no longer than that.
    timeout = REQUEST_SECONDS

    def log_message(self, *_: object) -> None:
        """A line for each probe would be chatter."""


class _BoundedServer(ThreadingWSGIServer):
    # One that does not fit waits a second or more until it is tried again.
    request_queue_size = 4 * MOST_CONNECTIONS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._guard = threading.Lock()
        self._open: list[socket.socket] = []
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._guard:
            self._open.append(request)
            oldest = self._open.pop(0) if len(self._open) > MOST_CONNECTIONS else None
        if oldest is not None:
            # Its thread reads the end, and closes it.
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._guard:
            self._open = [each for each in self._open if each is not request]
        super().shutdown_request(request)


class _DualStackServer(_BoundedServer):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        """Takes the port for both."""
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(port: int, health: Health) -> int:
    """Serves until the process ends, in threads of its own: a program that hangs is still asked.

    Ends the process where the port is taken.

    Returns:
        The port: a free one where 0 was asked for.
    """
    # The kubelet asks from outside of the pod, by IPv4 or by IPv6.
    family, address = (_DualStackServer, "::") if socket.has_dualstack_ipv6() else (_BoundedServer, "0.0.0.0")  # noqa: S104 - as above
    try:
        server = make_server(address, port, _app(health), family, _SilentHandler)
    except OSError as error:
        sys.exit(f"The HTTP port {port} cannot be had: {error}. Name another one with --http-port, or 0 for none.")
    threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
    return server.server_port


def _app(health: Health) -> "WSGIApplication":
    metrics: WSGIApplication = make_wsgi_app()
    probes = {"/livez": health.why_not_live, "/readyz": health.why_not_ready}

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path not in probes:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"There are /livez, /readyz and /metrics.\n"]
        problems = probes[path]()
        start_response("503 Service Unavailable" if problems else "200 OK", [("Content-Type", "text/plain")])
        return ["\n".join([*(problems or ["ok"]), ""]).encode()]

    return answer
