"""Work that waits for one of a few threads: what is due first is done first, whenever it came."""

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class UrgentFirst:
    """Thread-safe. Threads that take, each time one is free, the piece of work that is due first."""

    def __init__(self, workers: int, *, name: str) -> None:
        """No thread is started before there is work."""
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._guard = threading.Lock()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def submit(self, due_at: float, work: Callable[[], None]) -> None:
        """Has it done in its turn; of what is due at the same time, the first that came is the first."""
        with self._guard:
            heapq.heappush(self._waiting, (due_at, next(self._numbers), work))
        self._pool.submit(self._run_first)

    def stop(self) -> None:
        """Ends after the work that is under way; what waits is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run_first(self) -> None:
        with self._guard:
            _, _, work = heapq.heappop(self._waiting)
        work()
