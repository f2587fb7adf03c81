"""Keys that wait to be worked on: each at most once, each by one worker at a time, each perhaps later.

The asyncio sibling of client-go's work queue (k8s.io/client-go/util/workqueue).
"""

import asyncio
from collections import deque


class WorkQueue:
    """Not thread-safe: one event loop owns it."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._ready: deque[str] = deque()
        self._waiting: set[str] = set()
        self._in_work: set[str] = set()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._available = asyncio.Semaphore(0)

    def __len__(self) -> int:
        """How many are ready to be worked on."""
        return len(self._waiting)

    def add(self, key: str) -> None:
        """Makes a key ready. One in work comes again when that is done; one that was for later comes now."""
        self._forget_timer(key)
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._in_work:
            self._make_ready(key)

    def add_after(self, key: str, seconds: float) -> None:
        """Makes a key ready later; of several times the earliest counts."""
        if key in self._waiting:
            return
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        known = self._later.get(key)
        if known is None or due < known.when():
            self._forget_timer(key)
            self._later[key] = loop.call_at(due, self.add, key)

    async def get(self) -> str:
        """The next key, which is in work until `done`."""
        await self._available.acquire()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._in_work.add(key)
        return key

    def done(self, key: str) -> None:
        """Ends the work on a key."""
        self._in_work.discard(key)
        if key in self._waiting:
            self._make_ready(key)

    def _make_ready(self, key: str) -> None:
        self._ready.append(key)
        self._available.release()

    def _forget_timer(self, key: str) -> None:
        if (timer := self._later.pop(key, None)) is not None:
            timer.cancel()
