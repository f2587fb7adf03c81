"""How long the API server asked not to be asked again."""

import threading
import time
from collections.abc import Callable

LONGEST_SECONDS = 120.0
"""The API server asks for a few seconds; a balancer under maintenance may ask for a day."""


def asked_seconds(status: int, header: str | None) -> float:
    """Return for how many seconds an answer asks for no further request; 0 where it does not. Pure.

    The API server gives seconds, and never a date (https://pkg.go.dev/k8s.io/client-go/rest).
    """
    if (status != 429 and status < 500) or header is None or not (header.isascii() and header.isdecimal()):
        return 0.0
    return float(min(int(header[:9]), LONGEST_SECONDS))


class Pauses:
    """Until when each kind is not to be asked for. Thread-safe.

    By kind, as the API server limits its clients by what they ask for (API Priority and Fairness): a Lease is renewed
    although it takes no Events now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has been asked for yet."""
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def left(self, plural: str) -> float:
        """Return for how many seconds the kind is not to be asked for."""
        with self._lock:
            return max(0.0, self._until.get(plural, 0.0) - self._clock())

    def note(self, plural: str, status: int, header: str | None) -> None:
        """Take in an answer, with its header Retry-After."""
        seconds = asked_seconds(status, header)
        if seconds:
            with self._lock:
                self._until[plural] = self._clock() + seconds
