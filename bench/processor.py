"""Processor time and memory of a process, from /proc."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 2**20
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Spent:
    """Processor time in seconds: a process's own, and that of the programs that it ran."""

    own: float
    programs: float

    @property
    def all(self) -> float:
        """Both."""
        return self.own + self.programs


@dataclass(frozen=True)
class Taken:
    """The processor time of some processes within so many seconds, and the first one's greatest memory in MiB."""

    seconds: float
    spent: tuple[Spent, ...]
    greatest_rss: float

    @property
    def percents(self) -> tuple[float, ...]:
        """Return their shares of one processor, in percent, with the programs that they ran."""
        return tuple(100 * each.all / self.seconds for each in self.spent)


def watch(pids: tuple[int, ...], is_over: Callable[[], bool]) -> Taken:
    """Measure until it is over."""
    started, before, greatest = time.monotonic(), [_spent(pid) for pid in pids], 0
    while not is_over():
        greatest = max(greatest, _rss_bytes(pids[0]))
        time.sleep(_LOOK_SECONDS)
    seconds, after = time.monotonic() - started, [_spent(pid) for pid in pids]
    spent = (Spent(new.own - old.own, new.programs - old.programs) for new, old in zip(after, before, strict=True))
    return Taken(seconds, tuple(spent), greatest / MEBIBYTE)


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Return what is true after so long."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def _spent(pid: int) -> Spent:
    """Read user and system time, of its own and of its ended children: fields 14 to 17 of proc_pid_stat(5)."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) / _TICKS for field in fields[11:15])
    return Spent(user + system, children_user + children_system)


def _rss_bytes(pid: int) -> int:
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
