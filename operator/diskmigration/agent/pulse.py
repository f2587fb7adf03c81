"""Whether the node's libvirtd answers, asked every few seconds on a connection of its own, one call at a time.

The other threads cannot tell: of several calls that wait on one connection when it dies for want of keep-alives,
libvirt's client (seen in 9.0) has only one fail, and the rest wait until libvirtd goes on or ends.
"""

import threading
import time

from diskmigration.agent import metrics
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.api.errors import MigrationError
from diskmigration.observability.health import Health

LIBVIRT = "libvirtd"
"""What it tells of, for the probes."""

ASK_SECONDS = 2.0
LATE_SECONDS = 120.0
"""A call that is not answered fails in much less."""


class Pulse:
    """One thread, from `start` to the end of the process."""

    def __init__(self, uri: str, health: Health) -> None:
        """Nothing is asked before `start`."""
        self._connection = Connection(uri)
        self._health = health

    def start(self) -> None:
        """Starts asking."""
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._health.turned("the thread that asks whether libvirtd answers", within_seconds=LATE_SECONDS)
            try:
                self._connection.versions()
            except MigrationError as error:
                metrics.LIBVIRT_UP.set(0)
                self._health.fails(LIBVIRT, error.message)
            else:
                metrics.LIBVIRT_UP.set(1)
                self._health.answers(LIBVIRT)
            time.sleep(ASK_SECONDS)
