"""How fast moves between two storage domains were lately. In memory only: unknown until one has ended."""

from dataclasses import dataclass

from diskmigration.controller.queueing import Lane

_LATEST_SHARE = 0.5
_LEAST_BYTES = 64 * 2**20
"""A smaller move tells more of its constant cost than of the rate."""


@dataclass(frozen=True)
class Copied:
    """What one move copied, in bytes, and the seconds that this took."""

    size_bytes: int
    seconds: float


class Throughput:
    """The rate of each lane: the last move counts as much as all before it."""

    def __init__(self) -> None:
        """No move has ended."""
        self._rates: dict[Lane, float] = {}

    def note(self, lane: Lane, copied: Copied) -> None:
        """Take in a move that has ended well."""
        if copied.size_bytes < _LEAST_BYTES or copied.seconds <= 0:
            return
        rate = copied.size_bytes / copied.seconds
        before = self._rates.get(lane, rate)
        self._rates[lane] = before + _LATEST_SHARE * (rate - before)

    def seconds_for(self, lane: Lane, size_bytes: int) -> int | None:
        """Return how long copying so much takes at that rate; None where none is known."""
        rate = self._rates.get(lane)
        return round(size_bytes / rate) if rate else None
