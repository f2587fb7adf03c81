"""One HTTP port for the kubelet and for Prometheus: /livez, /readyz and /metrics."""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from diskmigration.observability.health import Health

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """A line for each probe would be chatter."""


def serve(port: int, health: Health) -> None:
    """Serves until the process ends, in threads of its own: a program that hangs is still asked.

    Raises:
        OSError: the port is taken.
    """
    server = make_server("0.0.0.0", port, _app(health), ThreadingWSGIServer, _SilentHandler)  # noqa: S104 - the kubelet asks from outside of the pod
    threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()


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
