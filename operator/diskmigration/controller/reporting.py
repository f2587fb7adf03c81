"""Events about migrations, recorded beside the work and never in its way."""

import asyncio
from collections import deque
from concurrent.futures import Executor

from diskmigration.api import names
from diskmigration.api.model import ObjectMeta
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.events import Event, EventType, Reporter, record_event

BACKLOG = 1000
"""Events beyond are dropped, the oldest first: the status has what matters."""


class Reporting:
    """A short backlog of events, and the one task that records them."""

    def __init__(self, cluster: Cluster, reporter: Reporter, executor: Executor) -> None:
        """Nothing to tell."""
        self._cluster = cluster
        self._reporter = reporter
        self._executor = executor
        self._backlog: deque[Event] = deque(maxlen=BACKLOG)
        self._told = asyncio.Event()

    def tell(
        self, metadata: ObjectMeta, *, reason: str, note: str, action: str, event_type: EventType = EventType.NORMAL
    ) -> None:
        """Records an event soon."""
        self._backlog.append(Event(names.DISK_MIGRATIONS, metadata, reason, note, action, event_type))
        self._told.set()

    async def run(self) -> None:
        """Records events until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._told.wait()
            self._told.clear()
            while self._backlog:
                event = self._backlog.popleft()
                await loop.run_in_executor(self._executor, record_event, self._cluster, self._reporter, event)
