"""Poll the statistics of all running VMs in one call, which waits for a QEMU that does not answer.

A call that is stuck is left to itself, and the next one passes its VM over: libvirt's job of that VM is taken, and the
poll does not wait for jobs (VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT). Stuck calls have more calls begun in the next
turn, so that many QEMUs that do not answer are soon all passed over.

A VM whose lock libvirtd holds is not passed over. Whoever calls has to find it, and to poll the others by their names.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from diskmigration.agent.hypervisor.qemu_calls import QemuCalls
from diskmigration.agent.hypervisor.statistics import Rows
from diskmigration.agent.hypervisor.vm_reader import VmReader
from diskmigration.agent.node.readers import Readers

_log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
SILENT_SECONDS = 3.0
_MOST_BEGUN_IN_A_TURN = 3


@dataclass(frozen=True)
class Answer:
    """The statistics of the running VMs, without those that were left out, and when the poll was due."""

    rows: Rows
    left_out: frozenset[str]
    asked_at: float


class Poll:
    """`turn` is called by one thread; answers come on others."""

    def __init__(
        self, readers: Readers, on_answer: Callable[[Answer], None], qemu_calls: QemuCalls, *, most: int
    ) -> None:
        """`on_answer` is given the newest answer, whenever one has come. `most` calls are under way at once.

        Each is one of the `qemu_calls`.
        """
        self._readers = readers
        self._qemu_calls = qemu_calls
        self._on_answer = on_answer
        self._most = most
        self._guard = threading.Lock()
        self._next_at = float("-inf")
        self._begun = 0
        self._answered, self._answered_at = 0, float("-inf")
        self._under_way: set[int] = set()
        self._stuck = 0

    def is_silent(self, now: float) -> bool:
        """Return whether no call was answered for longer than one takes."""
        with self._guard:
            return bool(self._under_way) and now - self._answered_at >= SILENT_SECONDS

    def turn(self, now: float, *, running: frozenset[str] = frozenset(), held: frozenset[str] = frozenset()) -> None:
        """Begin what is due. Where libvirtd holds the locks of some VMs, the others that run are asked for by name."""
        if self._answered_at == float("-inf"):
            self._answered_at = now
        if now < self._next_at:
            return
        self._next_at = max(self._next_at + POLL_SECONDS, now + POLL_SECONDS / 2)
        for number in self._take_numbers():
            try:
                future = self._readers.submit(partial(self._ask, others=running - held, held=held, now=now))
            except RuntimeError:
                self._end(number)
                raise
            future.add_done_callback(partial(self._take_in, number, now))

    def _take_numbers(self) -> range:
        with self._guard:
            newly_stuck = max(0, len(self._under_way) - self._stuck)
            self._stuck = len(self._under_way)
            count = min(1 + newly_stuck, _MOST_BEGUN_IN_A_TURN, self._most - self._stuck)
            numbers = range(self._begun + 1, self._begun + 1 + max(0, count))
            self._begun += len(numbers)
            self._under_way.update(numbers)
            return numbers

    def _end(self, number: int) -> None:
        with self._guard:
            self._under_way.discard(number)

    def _take_in(self, number: int, begun_at: float, future: "Future[Answer]") -> None:
        self._end(number)
        if (error := future.exception()) is not None:
            _log.warning("the VMs' statistics could not be read", extra={"error": str(error)})
            return
        with self._guard:
            if number < self._answered:
                # A call that was stuck: a later one has told more.
                return
            self._answered, self._answered_at = number, begun_at
            self._on_answer(future.result())

    def _ask(self, reader: VmReader, *, others: frozenset[str], held: frozenset[str], now: float) -> Answer:
        with self._qemu_calls.one():
            return Answer(reader.statistics_of(others) if held else reader.statistics(), held, now)
