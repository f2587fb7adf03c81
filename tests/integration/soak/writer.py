"""One that writes to a disk without end, one write after the other, so that what it must hold is known."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.processes import TestbedError
from tests.integration.soak.chance import Write, write
from tests.integration.soak.disk import SoakDisk

_PAUSE_SECONDS = 0.1
"""On average between two writes: what is left to a mirror to come in step, and to this machine for all else."""
_PATIENCE_SECONDS = 90.0
_AGAIN_SECONDS = 0.05
# A guest would be paused by the one, and would not notice the other.
_TEMPORARY = ("No space left on device", "cannot acquire state change lock")


class Writer:
    """Writes in a thread of its own from `start` on. `paused` and `stop` raise what it met."""

    def __init__(self, disk: SoakDisk, chance: random.Random) -> None:
        self._disk = disk
        self._chance = chance
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"writes to {disk.machine.name}", daemon=True)
        self.count = 0
        self.waited = 0

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is written in the block, and the last write is whole.

        Raises:
            Exception: what a write met.
        """
        with self._turn:
            self._check()
            yield

    def stop(self) -> None:
        """Ends the thread after its last write."""
        self._stopping.set()
        self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._chance.uniform(0, 2 * _PAUSE_SECONDS)):
                with self._turn:
                    self._write(write(self._chance, self._disk.shape.capacity_bytes))
                    self.count += 1
        except Exception as error:  # noqa: BLE001 - it is the other thread's to judge
            self._error = error

    def _write(self, wanted: Write) -> None:
        """As a guest does that is paused by a full volume: the same again when there is room."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._disk.write(wanted)
            except TestbedError as error:
                is_temporary = any(words in str(error) for words in _TEMPORARY)
                if not is_temporary or time.monotonic() > deadline or self._stopping.is_set():
                    raise
                self.waited += 1
                time.sleep(_AGAIN_SECONDS)
            else:
                return
