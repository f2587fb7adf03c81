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
class Taken:
    """The processes' shares of one processor, in percent, and the greatest memory of the first one, in MiB."""

    percents: tuple[float, ...]
    greatest_rss: float


def watch(pids: tuple[int, ...], is_over: Callable[[], bool]) -> Taken:
    """Measure until it is over."""
    started, before, greatest = time.monotonic(), [ticks(pid) for pid in pids], 0
    while not is_over():
        greatest = max(greatest, _rss_bytes(pids[0]))
        time.sleep(_LOOK_SECONDS)
    seconds = time.monotonic() - started
    percents = [100 * (ticks(pid) - old) / _TICKS / seconds for pid, old in zip(pids, before, strict=True)]
    return Taken(tuple(percents), greatest / MEBIBYTE)


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Return what is true after so long."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def ticks(pid: int) -> int:
    """Return its user and system time and that of the programs it ran, fields 14 to 17 of proc_pid_stat(5)."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


def _rss_bytes(pid: int) -> int:
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
