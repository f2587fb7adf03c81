"""What the guest says on its serial console, timed on the host, so that a paused guest shows as a gap."""

import bisect
import itertools
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.processes import TestbedError

_POLL_SECONDS = 0.002
_LINE = re.compile(r"(ack|stopped|failed|writing) (.*)")
_TAIL_LINES = 20


@dataclass
class Transcript:
    """The console's lines, told in order with their times. All times are in seconds of one monotonic clock.

    A gap is the time between two lines that acknowledge records; the newest one is open until the next line comes.
    """

    acknowledged: int = -1
    """The newest acknowledged record; -1 when none was."""
    first_at: float | None = None
    last_at: float | None = None
    longest_closed_gap_seconds: float = 0.0
    longest_gap_at: float | None = None
    """When the longest closed gap began."""
    failure: str | None = None
    has_stopped: bool = False
    tail: list[str] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)
    """When each acknowledgement came."""
    _unfinished: bytes = b""

    def tell(self, chunk: bytes, at: float) -> None:
        """Add what arrived at a time. A line counts when its end has arrived."""
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        for line in lines:
            self._tell_line(line.decode(errors="replace").strip(), at)

    def longest_gap_seconds(self, now: float) -> float:
        """Return the longest gap so far, the open one included."""
        if self.last_at is None or self.has_stopped:
            return self.longest_closed_gap_seconds
        return max(self.longest_closed_gap_seconds, now - self.last_at)

    def longest_gap_between_seconds(self, start: float, end: float) -> float:
        """Return the longest of the gaps that overlap a stretch of time, each counted whole up to its end.

        The time from the newest acknowledgement to `end` counts, as does that to `start` of a guest that said nothing.
        """
        first = max(bisect.bisect_right(self.acknowledged_at, start) - 1, 0)
        last = bisect.bisect_left(self.acknowledged_at, end)
        times = [*self.acknowledged_at[first : last + 1]] or [start]
        if times[-1] < end:
            times.append(end)
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def _tell_line(self, line: str, at: float) -> None:
        self.tail = [*self.tail, line][-_TAIL_LINES:]
        said = _LINE.fullmatch(line)
        if said is None:
            return
        kind, value = said.groups()
        if kind == "failed":
            self.failure = value
        elif kind == "stopped":
            self.acknowledged = max(self.acknowledged, int(value))
            self.has_stopped = True
        elif kind == "ack":
            self._acknowledge(int(value), at)

    def _acknowledge(self, sequence: int, at: float) -> None:
        if sequence <= self.acknowledged:
            self.failure = f"record {sequence} was acknowledged after record {self.acknowledged}: the guest began anew"
            return
        if self.last_at is None:
            self.first_at = at
        elif at - self.last_at > self.longest_closed_gap_seconds:
            self.longest_closed_gap_seconds = at - self.last_at
            self.longest_gap_at = self.last_at
        self.acknowledged, self.last_at = sequence, at
        self.acknowledged_at.append(at)


class SerialWatcher:
    """Reads a growing console log in a thread, from its first byte, for as long as it is entered.

    Gaps are known to 2 ms, and only those while the watcher ran: enter it before the domain starts.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._transcript = Transcript()
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._ended_at: float | None = None
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._read, name=f"console-{log.name}", daemon=True)

    def __enter__(self) -> Self:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Read what is there to its end, then stop reading; no gap grows after this."""
        self._ending.set()
        self._thread.join()

    @property
    def acknowledged(self) -> int:
        """The newest acknowledged record; -1 when none was."""
        with self._changed:
            self._check()
            return self._transcript.acknowledged

    @property
    def longest_gap_seconds(self) -> float:
        """The longest time between two acknowledgements, or since the newest one."""
        with self._changed:
            self._check()
            return self._transcript.longest_gap_seconds(self._ended_at or time.monotonic())

    def longest_gap_between_seconds(self, start: float, end: float) -> float:
        """The longest time between two acknowledgements that overlaps a stretch of `time.monotonic`."""
        with self._changed:
            self._check()
            return self._transcript.longest_gap_between_seconds(start, end)

    def wait_for_record(self, sequence: int, *, timeout_seconds: float = 60) -> None:
        """Wait until the guest's disk has acknowledged a record.

        Raises:
            TestbedError: the guest said that it failed, or the time is over; the message has the console's end.
        """
        self._wait(lambda: self._transcript.acknowledged >= sequence, f"record {sequence}", timeout_seconds)

    def wait_for_more(self, count: int, *, timeout_seconds: float = 60) -> None:
        """Wait until `count` more records than now are acknowledged. Raises as `wait_for_record` does."""
        self.wait_for_record(self.acknowledged + count, timeout_seconds=timeout_seconds)

    def wait_for_gap(self, seconds: float, *, timeout_seconds: float = 60) -> None:
        """Wait until the guest has acknowledged nothing for so long. Raises as `wait_for_record` does."""
        deadline = time.monotonic() + timeout_seconds
        while (longest := self.longest_gap_seconds) < seconds:
            if time.monotonic() > deadline:
                raise TestbedError(f"No gap of {seconds} s in {timeout_seconds:.0f} s; the longest is {longest:.3f} s.")
            time.sleep(_POLL_SECONDS)

    def wait_for_stop(self, *, timeout_seconds: float = 60) -> None:
        """Wait until the guest, asked to power off, has said its last record. Raises as `wait_for_record` does."""
        self._wait(lambda: self._transcript.has_stopped, "the guest's stop", timeout_seconds)

    def _wait(self, condition: Callable[[], bool], what: str, timeout_seconds: float) -> None:
        def is_over() -> bool:
            return condition() or self._transcript.failure is not None or self._broken is not None

        with self._changed:
            in_time = self._changed.wait_for(is_over, timeout_seconds)
            self._check()
            if not in_time:
                raise TestbedError(
                    f"Waiting for {what}: not so after {timeout_seconds:.0f} s; the newest acknowledged record is "
                    f"{self._transcript.acknowledged}. {self._tail()}"
                )

    def _check(self) -> None:
        if self._broken is not None:
            raise TestbedError(f"{self._log} could not be read: {self._broken}") from self._broken
        if self._transcript.failure is not None:
            raise TestbedError(f"The guest failed: {self._transcript.failure}. {self._tail()}")

    def _tail(self) -> str:
        return f"The end of {self._log}:\n" + "\n".join(self._transcript.tail)

    def _read(self) -> None:
        try:
            self._follow()
        except (OSError, ValueError) as error:
            with self._changed:
                self._broken = error
                self._changed.notify_all()
        self._ended_at = time.monotonic()

    def _follow(self) -> None:
        # QEMU makes the log when it starts.
        while not self._log.exists():
            if self._ending.wait(_POLL_SECONDS):
                return
        with self._log.open("rb", buffering=0) as log:
            while True:
                # Asked before reading, so that what was there when it was set is read.
                is_ending = self._ending.is_set()
                if chunk := log.read(1 << 16):
                    with self._changed:
                        self._transcript.tell(chunk, time.monotonic())
                        self._changed.notify_all()
                elif is_ending:
                    return
                else:
                    self._ending.wait(_POLL_SECONDS)
