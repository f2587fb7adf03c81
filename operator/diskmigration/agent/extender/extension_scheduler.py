"""The threads that run extensions, and how long one takes: a few for each storage domain, the fullest volume first."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from diskmigration.agent import metrics
from diskmigration.agent.extender.write_rate import UNMEASURED_SECONDS, DecayingMax

_WORKERS_PER_DOMAIN = 4


class PriorityExecutor:
    """Threads that take the work that is due first, each time one is free. Thread-safe."""

    def __init__(self, workers: int, *, name: str) -> None:
        """No thread is started before there is work."""
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def submit(self, due_at: float, work: Callable[[], None]) -> None:
        """Run the work in its turn; of what is due at the same time, the first that came is the first."""
        with self._lock:
            heapq.heappush(self._waiting, (due_at, next(self._numbers), work))
        self._pool.submit(self._run_first)

    def stop(self) -> None:
        """End after the work that is under way; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run_first(self) -> None:
        with self._lock:
            _, _, work = heapq.heappop(self._waiting)
        work()


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


class ExtensionScheduler:
    """Runs the extensions of all VMs: a few threads for each storage domain, and the most urgent first. Thread-safe.

    A volume group or an array that answers slowly holds up no volume but its own.
    """

    def __init__(self) -> None:
        """No thread is started before there is work."""
        self.latency = StorageLatency()
        self._lock = threading.Lock()
        self._is_stopping = False
        self._executors: dict[str, PriorityExecutor] = {}

    @property
    def is_stopping(self) -> bool:
        """Whether no extension begins any more."""
        return self._is_stopping

    def stop(self) -> None:
        """End after the extensions that have begun."""
        with self._lock:
            self._is_stopping = True
            executors = list(self._executors.values())
        for executor in executors:
            executor.stop()

    def submit(self, storage_domain: str, full_at: float, extend: Callable[[], None]) -> None:
        """Run an extension in that storage domain of a volume that will be full at that time.

        Raises:
            RuntimeError: no thread could be started.
        """
        with self._lock:
            if self._is_stopping:
                return
            if storage_domain not in self._executors:
                name = f"extend {storage_domain}"
                self._executors[storage_domain] = PriorityExecutor(_WORKERS_PER_DOMAIN, name=name)
            executor = self._executors[storage_domain]
        executor.submit(full_at, extend)
