"""How long an extension takes in each storage domain."""

import threading
import time

from diskmigration.agent import metrics
from diskmigration.agent.extender.write_rate import UNMEASURED_SECONDS, DecayingMax


class StorageLatency:
    """Thread-safe. A storage domain is known by its name."""

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._lock = threading.Lock()
        self._latencies: dict[str, DecayingMax] = {}
        self._durations: dict[str, DecayingMax] = {}

    def note_extension(self, storage_domain: str, *, due_since: float, began_at: float) -> None:
        """Record that a volume has just grown whose threshold was passed, and whose extension began, at these times."""
        now = time.monotonic()
        metrics.EXTENSIONS.labels(storage_domain).inc()
        metrics.EXTENSION_SECONDS.labels(storage_domain).observe(now - due_since)
        with self._lock:
            latency = self._latencies.get(storage_domain, DecayingMax()).raised_to(now - due_since, now)
            duration = self._durations.get(storage_domain, DecayingMax()).raised_to(now - began_at, now)
            self._latencies[storage_domain], self._durations[storage_domain] = latency, duration
        metrics.EXTENSION_LATENCY.labels(storage_domain).set(latency.now(now))

    def latency(self, storage_domain: str) -> float:
        """Return the longest recent time from a passed threshold to the grown volume; it fades."""
        with self._lock:
            return self._latencies.get(storage_domain, DecayingMax()).now(time.monotonic())

    def duration(self, storage_domain: str) -> float:
        """Return how long an extension takes once it has begun.

        It does not fade: a domain that was slow a minute ago is slow still.
        """
        with self._lock:
            measured = self._durations.get(storage_domain)
            return measured.value if measured is not None else UNMEASURED_SECONDS
