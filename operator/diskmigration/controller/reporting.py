"""Events about migrations, recorded beside the work and never in its way."""

import asyncio
import functools
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass

from diskmigration.api import names
from diskmigration.api.model import ObjectMeta
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.events import EventType, Reporter, record_event

BACKLOG = 1000
"""Events beyond are dropped, the oldest first: the status has what matters."""


@dataclass(frozen=True, slots=True)
class Story:
    """One thing that happened to a DiskMigration."""

    metadata: ObjectMeta
    reason: str
    note: str
    action: str
    event_type: EventType


class Reporting:
    """A short backlog of events, and the one task that records them."""

    def __init__(self, cluster: Cluster, reporter: Reporter, executor: Executor) -> None:
        """Nothing to tell."""
        self._cluster = cluster
        self._reporter = reporter
        self._executor = executor
        self._backlog: deque[Story] = deque(maxlen=BACKLOG)
        self._told = asyncio.Event()

    def tell(
        self, metadata: ObjectMeta, *, reason: str, note: str, action: str, event_type: EventType = EventType.NORMAL
    ) -> None:
        """Records an event soon."""
        self._backlog.append(Story(metadata, reason, note, action, event_type))
        self._told.set()

    async def run(self) -> None:
        """Records events until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._told.wait()
            self._told.clear()
            while self._backlog:
                story = self._backlog.popleft()
                record = functools.partial(
                    record_event,
                    self._cluster,
                    self._reporter,
                    names.DISK_MIGRATIONS,
                    story.metadata,
                    reason=story.reason,
                    note=story.note,
                    action=story.action,
                    event_type=story.event_type,
                )
                await loop.run_in_executor(self._executor, record)
