"""Whether a program still does something: prints, reads, writes or computes. Pure.

qemu-img prints its progress in whole percents, which on a large disk are many minutes apart, and not at all where it
measures, maps or preallocates. The kernel's counters of the process move with every request.
"""

from dataclasses import dataclass

PATIENCE_SECONDS = 600.0
"""How long a program may do nothing before it is given up: a storage that fails over takes minutes."""
_PORTION_BYTES = 64 * 2**20
"""More than a block job of QEMU has in flight at once."""


@dataclass(frozen=True)
class Counters:
    """What a process has done since it began: bytes in system calls and on storage, and ticks of processor time."""

    io_bytes: int = 0
    ticks: int = 0


def counters(io: str, stat: str) -> Counters:
    """Read /proc/PID/io and /proc/PID/stat; either may be empty, as for a process that has just ended.

    Source: the kernel's Documentation/filesystems/proc.rst. The name in stat may hold blanks and parentheses.
    """
    values = (line.partition(":")[2].strip() for line in io.splitlines())
    fields = stat.rpartition(")")[2].split()
    return Counters(io_bytes=sum(map(int, values)), ticks=sum(map(int, fields[11:13])))


@dataclass(frozen=True)
class ProcessActivity:
    """When a program was last seen to do something, in seconds."""

    at: float
    counters: Counters = Counters()

    def advanced(self, *, now: float, counters: Counters, has_printed: bool = False) -> "ProcessActivity":
        """Return it with a new reading."""
        if has_printed or counters != self.counters:
            return ProcessActivity(now, counters)
        return self

    def has_stopped(self, *, now: float, patience: float) -> bool:
        """Return whether nothing was done for so many seconds."""
        return now - self.at > patience


def patience_at(bandwidth_bytes_per_second: int | None) -> float:
    """Return for how long a program that keeps to a bandwidth may do nothing: it sleeps after each portion."""
    if bandwidth_bytes_per_second is None:
        return PATIENCE_SECONDS
    return PATIENCE_SECONDS + _PORTION_BYTES / bandwidth_bytes_per_second
