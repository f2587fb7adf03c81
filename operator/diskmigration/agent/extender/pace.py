"""How fast a volume fills, how long an extension takes, and what head room follows from the two. Pure arithmetic.

Sizes in bytes, times in seconds on one monotonic clock, rates in bytes a second.
"""

import math
from dataclasses import dataclass, replace

from diskmigration.agent.extender.watermark import ALIGNMENT_BYTES, Policy

FADING_SECONDS = 10.0
"""In that time a peak that does not come again falls to 1/e: a burst is believed at once, and soon forgotten."""

SHORTEST_SECONDS = 0.02
"""Over less than that no rate is measured: it would tell more of how a single request was cut than of the writer."""

SAFETY = 2.0
"""How many times what is written while one extension lasts is kept free: the next may take longer."""

STRIDE = 4.0
"""One extension lasts for so many more: a fast writer must not be extended without pause."""

UNMEASURED_SECONDS = 0.1
"""Taken for what an extension takes, before one was measured: as lvextend on a local disk."""

MOST_CHUNKS = 8
"""Neither the head room nor a stride grows past so many of the administrator's chunks, whatever is measured."""


@dataclass(frozen=True)
class Peak:
    """The highest value that was seen lately."""

    value: float = 0.0
    at: float = 0.0

    def now(self, at: float) -> float:
        """What is left of it then."""
        return self.value * math.exp(-max(at - self.at, 0.0) / FADING_SECONDS)

    def raised_to(self, value: float, at: float) -> "Peak":
        """With what is seen now: a higher value counts at once, a lower one not before the peak has faded to it."""
        return Peak(max(value, self.now(at)), max(at, self.at))


@dataclass(frozen=True)
class Pace:
    """How fast one open volume fills: its highest offset written, `allocated`, as it was at a time, and the rate.

    Only new clusters count, as what is written anew needs no room.
    """

    at: float
    allocated: int
    rate: Peak = Peak()

    def seen(self, at: float, allocated: int) -> "Pace":
        """With the offset as it is now.

        The first offset that QEMU tells, after 0, is where the volume stood, and not what was written since.
        """
        written = allocated - self.allocated
        if self.allocated == 0 or written < 0:
            return self if allocated == 0 else replace(self, at=at, allocated=max(allocated, self.allocated))
        seconds = at - self.at
        raised = self.rate.raised_to(written / max(seconds, SHORTEST_SECONDS), at)
        if seconds < SHORTEST_SECONDS:
            return replace(self, rate=raised)
        return Pace(at, allocated, raised)


def passed_at(*, allocated: int, armed: int, armed_at: float, rate: float, now: float) -> float:
    """When a threshold was passed of which no event came, by the rate; not before it was armed."""
    overrun = allocated - armed
    if overrun <= 0 or rate <= 0:
        return now
    return max(armed_at, now - overrun / rate)


def adapted(policy: Policy, *, rate: float, latency: float) -> Policy:
    """The administrator's policy for a volume that fills at that rate where an extension takes that long.

    Neither its watermark nor its chunk is ever less than his; a chunk stays a whole number of his.
    """
    written = min(max(rate, 0.0) * max(latency, 0.0), float(MOST_CHUNKS * policy.chunk))
    most = max(policy.high_watermark, MOST_CHUNKS * policy.chunk)
    # In steps, as each change of the head room has a threshold armed anew.
    step = max(policy.high_watermark // 4, ALIGNMENT_BYTES)
    wanted = math.ceil(written * SAFETY / step) * step
    chunks = min(max(math.ceil(written * STRIDE / policy.chunk), 1), MOST_CHUNKS)
    return Policy(
        high_watermark=min(max(policy.high_watermark, wanted), most),
        chunk=chunks * policy.chunk,
    )


def seconds_until_full(*, free: int, rate: float) -> float:
    """How long a volume lasts with that much free; for ever where nothing is written."""
    return max(free, 0) / rate if rate > 0 else math.inf


def patience(*, free: int, rate: float, seconds: float) -> float:
    """How long an extension that takes so many seconds can be put off, so that a volume with that much free lasts."""
    return max(0.0, seconds_until_full(free=free, rate=rate) - SAFETY * seconds)
