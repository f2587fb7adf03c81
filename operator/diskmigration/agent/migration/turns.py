"""The disks of one VM are changed one after the other: their snapshots, and the starts and pivots of their jobs.

A turn lasts for one act and never for a wait: a merge takes it to start and to pivot, and not for as long as it runs.
Nobody waits in here either: whoever finds it taken shows that, looks at what is wished meanwhile, and tries again.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from diskmigration import clock
from diskmigration.agent.migration.activity import Activity


@dataclass(frozen=True)
class Turn:
    """Whose act is under way, as `vda of DiskMigration vms/web-1`, and since when."""

    holder: str
    since: datetime


class TurnTakenError(Exception):
    """Another disk of the VM has the turn. Nothing was done."""

    def __init__(self, turn: Turn) -> None:
        """The message is for the user."""
        what = f"Waiting for {turn.holder}, another disk of the same VM, which is being switched to another volume"
        self.activity = Activity(what, turn.since)
        super().__init__(self.activity.message)


class Turns:
    """Which VMs have an act under way. Thread-safe."""

    def __init__(self) -> None:
        """No VM is known yet."""
        self._guard = threading.Lock()
        self._taken: dict[str, Turn] = {}
        self._waiting: dict[str, set[Callable[[], None]]] = {}

    @contextmanager
    def take(self, uuid: str, holder: str, *, wake: Callable[[], None]) -> Iterator[None]:
        """Have the VM's turn for the block; `wake` is called when one that was taken is free again.

        Raises:
            TurnTakenError: somebody else has it.
        """
        with self._guard:
            if (turn := self._taken.get(uuid)) is not None:
                self._waiting.setdefault(uuid, set()).add(wake)
                raise TurnTakenError(turn)
            self._taken[uuid] = Turn(holder, clock.now())
        try:
            yield
        finally:
            with self._guard:
                del self._taken[uuid]
                waiting = self._waiting.pop(uuid, set())
            for call in waiting:
                call()
