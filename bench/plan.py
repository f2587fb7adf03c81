"""How much is measured: the whole, or the quick round that shows that everything works."""

from dataclasses import dataclass

from bench.stage import Thin

MEBIBYTE = 2**20
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Plan:
    """`copies` has for each size of a disk, in bytes, how many pairs of moves are made of it."""

    copies: tuple[tuple[int, int], ...]
    latency_moves: int
    thin: Thin
    trial_seconds: int
    """How long a guest writes in a trial of the extender, unless that is less or more than the next two."""
    least_written_bytes: int
    most_written_bytes: int
    searches: int
    machines: int
    """How many VMs the node has while the agent's processor is measured."""
    writers: int
    """How many of them write."""
    window_seconds: float
    """How long the processor is measured at a time: a multiple of 30 s, in which the agent does each of its tasks."""
    rounds: int
    """How often today's agent and the previous design's are measured in turn."""
    is_quick: bool = False

    def written_bytes(self, rate_mebibytes: int) -> int:
        """Return how much a guest writes in a trial at so many MiB/s; 0, without limit, is the most of all."""
        asked = self.trial_seconds * rate_mebibytes * MEBIBYTE
        return min(max(asked, self.least_written_bytes), self.most_written_bytes) if asked else self.most_written_bytes


WHOLE = Plan(
    copies=((GIBIBYTE, 5), (8 * GIBIBYTE, 5)),
    latency_moves=7,
    thin=Thin(watermark=16 * MEBIBYTE, chunk=64 * MEBIBYTE),
    trial_seconds=5,
    least_written_bytes=512 * MEBIBYTE,
    most_written_bytes=4 * GIBIBYTE,
    searches=3,
    machines=100,
    writers=20,
    window_seconds=30,
    rounds=2,
)
QUICK = Plan(
    copies=((256 * MEBIBYTE, 2),),
    latency_moves=3,
    thin=Thin(watermark=8 * MEBIBYTE, chunk=16 * MEBIBYTE),
    trial_seconds=1,
    least_written_bytes=128 * MEBIBYTE,
    most_written_bytes=512 * MEBIBYTE,
    searches=1,
    machines=10,
    writers=2,
    window_seconds=10,
    rounds=1,
    is_quick=True,
)
