"""Whether the node's libvirtd answers, asked every few seconds on a connection of its own, one call at a time.

The other threads cannot tell: their calls wait for as long as it does not.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait

from diskmigration.agent import metrics
from diskmigration.agent.hypervisor.connection import ping
from diskmigration.api.errors import MigrationError
from diskmigration.observability.health import Health
from diskmigration.observability.loops import surviving

LIBVIRT = "libvirtd"
"""What it tells of, for the probes."""

ASK_SECONDS = 2.0
ANSWER_SECONDS = 10.0
LATE_SECONDS = 60.0
"""Many times what a turn takes at most."""


class Pulse:
    """Two threads, from `start` to the end of the process."""

    def __init__(self, uri: str, health: Health) -> None:
        """Nothing is asked before `start`."""
        self._uri = uri
        self._health = health
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="ping")
        self._asked: Future[None] | None = None

    def start(self) -> None:
        """Starts asking."""
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._health.turned("the thread that asks whether libvirtd answers", within_seconds=LATE_SECONDS)
            with surviving("the question whether libvirtd answers"):
                self._ask()
                time.sleep(ASK_SECONDS)

    def _ask(self) -> None:
        if (why := self._why_silent()) is None:
            metrics.LIBVIRT_UP.set(1)
            self._health.answers(LIBVIRT)
        else:
            metrics.LIBVIRT_UP.set(0)
            self._health.fails(LIBVIRT, why)

    def _why_silent(self) -> str | None:
        # A question that was not answered is waited for again: no other would be.
        asked = self._asked or self._asker.submit(ping, self._uri)
        self._asked = asked
        done, _ = wait((asked,), ANSWER_SECONDS)
        if not done:
            return f"nothing came from {self._uri} within {ANSWER_SECONDS:.0f} s. Check whether it hangs."
        self._asked = None
        try:
            asked.result()
        except MigrationError as error:
            return error.message
        return None
