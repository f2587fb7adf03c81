"""The HTTP port answers probes whatever else is connected to it, and takes a bounded number of threads."""

import http.client
import socket
import threading
from contextlib import ExitStack, closing

import pytest

from diskmigration.observability import endpoint
from diskmigration.observability.endpoint import MOST_CONNECTIONS
from diskmigration.observability.health import Health
from tests.waiting import wait_until

BEGUN = b"GET /livez HTTP/1.1\r\n"


@pytest.fixture(scope="module")
def port() -> int:
    return endpoint.serve(0, Health())


def status(port: int) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/livez")
        return connection.getresponse().status


@pytest.mark.parametrize("sent", [b"", BEGUN], ids=["silent", "in the midst of a request"])
def test_a_probe_is_answered_while_others_keep_connections_open(port: int, sent: bytes) -> None:
    before = threading.active_count()
    with ExitStack() as held:
        for _ in range(4 * MOST_CONNECTIONS):
            other = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            other.sendall(sent)
        assert status(port) == 200
        wait_until(
            lambda: threading.active_count() <= before + MOST_CONNECTIONS, "the threads of the closed ones have ended"
        )
    wait_until(lambda: threading.active_count() <= before, "all have ended")
