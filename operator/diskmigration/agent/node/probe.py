"""Tell whether the node's libvirtd answers, by the age of its last answer to any read. Thread-safe."""

import threading

from diskmigration.agent import metrics
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.observability.health import Health

LIBVIRT = "libvirtd"
"""What it tells of, for the probes."""

ASK_SECONDS = 2.0
"""libvirtd is asked for its version when nothing else was answered for so long."""

ANSWER_SECONDS = 10.0


class LibvirtProbe:
    """One VM that does not answer says nothing about libvirtd: only libvirtd's own version counts as a failure."""

    def __init__(self, uri: str, health: Health, *, now: float) -> None:
        """Nothing was answered yet. `now` is on the monotonic clock, as all times here."""
        self._uri = uri
        self._health = health
        self._guard = threading.Lock()
        self._answered_at = now
        self._has_answered = False
        self._failure = ""

    def answered(self, now: float) -> None:
        """Note that libvirtd has answered a read, with whatever it was."""
        with self._guard:
            self._answered_at, self._has_answered, self._failure = max(now, self._answered_at), True, ""

    def failed(self, message: str) -> None:
        """Note why libvirtd could not be asked for its version."""
        with self._guard:
            self._failure = message

    def has_failed(self) -> bool:
        """Return whether libvirtd could not be asked for its version, and has answered nothing since."""
        with self._guard:
            return bool(self._failure)

    def is_due(self, now: float) -> bool:
        """Return whether libvirtd is to be asked for its version, as nothing else was answered."""
        with self._guard:
            return bool(self._failure) or not self._has_answered or now - self._answered_at >= ASK_SECONDS

    def require_answers(self, now: float) -> None:
        """Check that libvirtd answers.

        Raises:
            HypervisorUnavailableError: it does not, or it has not yet.
        """
        with self._guard:
            if self._failure:
                raise HypervisorUnavailableError(self._failure)
            if now - self._answered_at >= ANSWER_SECONDS:
                raise HypervisorUnavailableError(
                    f"nothing came from {self._uri} within {ANSWER_SECONDS:.0f} s. Check whether it hangs."
                )
            if not self._has_answered:
                raise HypervisorUnavailableError(f"libvirtd at {self._uri} has not answered yet.")

    def report(self, now: float) -> None:
        """Tell the probes and the metric."""
        try:
            self.require_answers(now)
        except HypervisorUnavailableError as error:
            metrics.LIBVIRT_UP.set(0)
            self._health.fails(LIBVIRT, error.message)
        else:
            metrics.LIBVIRT_UP.set(1)
            self._health.answers(LIBVIRT)
