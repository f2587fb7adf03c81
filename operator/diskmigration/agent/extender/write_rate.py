"""How fast a volume fills, and the head room that follows from it and from how long an extension takes. Pure.

Sizes are in bytes, times in seconds on one monotonic clock, rates in bytes per second.
"""

import math
from dataclasses import dataclass, replace

from diskmigration.agent.extender.watermark import ALIGNMENT_BYTES, Policy

FADING_SECONDS = 10.0
"""A maximum that does not come again falls to 1/e in this time: a burst counts at once and is soon forgotten."""

SHORTEST_SECONDS = 0.02
"""No rate is measured over less: it would depend on how QEMU splits one request rather than on the writer."""

SAFETY = 2.0
"""The head room is so many times what is written during one extension, as the next extension may take longer."""

STRIDE = 4.0
"""A chunk lasts for so many extensions: a fast writer must not be extended without pause."""

UNMEASURED_SECONDS = 0.1
"""The assumed duration of an extension before one was measured: that of lvextend on a local disk."""

MOST_CHUNKS = 8
"""The head room and one extension never exceed so many of the administrator's chunks."""


@dataclass(frozen=True)
class DecayingMax:
    """The highest recent value."""

    value: float = 0.0
    at: float = 0.0

    def now(self, at: float) -> float:
        """Return what is left of the maximum at that time."""
        return self.value * math.exp(-max(at - self.at, 0.0) / FADING_SECONDS)

    def raised_to(self, value: float, at: float) -> "DecayingMax":
        """Return the maximum with one more value: a lower one counts once the maximum has faded to it."""
        return DecayingMax(max(value, self.now(at)), max(at, self.at))


@dataclass(frozen=True)
class WriteRate:
    """How fast one open volume fills: its highest written offset, `allocated`, at the time `at`, and the rate.

    Only new clusters count, as overwriting takes no room.
    """

    at: float
    allocated: int
    rate: DecayingMax = DecayingMax()

    def updated(self, at: float, allocated: int) -> "WriteRate":
        """Return the rate with one more report of the offset; a report older than the last one changes nothing.

        The first offset that QEMU reports, after 0, is where the volume stood, and not what was written since.
        """
        if at < self.at:
            return self
        written = allocated - self.allocated
        if self.allocated == 0 or written < 0:
            return self if allocated == 0 else replace(self, at=at, allocated=max(allocated, self.allocated))
        seconds = at - self.at
        raised = self.rate.raised_to(written / max(seconds, SHORTEST_SECONDS), at)
        if seconds < SHORTEST_SECONDS:
            return replace(self, rate=raised)
        return WriteRate(at, allocated, raised)


def passed_at(*, allocated: int, armed: int, armed_at: float, rate: float, now: float) -> float:
    """Estimate when a threshold was passed that sent no event; never before it was armed."""
    overrun = allocated - armed
    if overrun <= 0 or rate <= 0:
        return now
    return max(armed_at, now - overrun / rate)


def adapted_policy(policy: Policy, *, rate: float, latency: float) -> Policy:
    """Return the policy for a volume that fills at that rate where an extension takes that long.

    Watermark and chunk are never below the administrator's; the chunk stays a multiple of the administrator's.
    """
    written = min(max(rate, 0.0) * max(latency, 0.0), float(MOST_CHUNKS * policy.chunk))
    most = max(policy.high_watermark, MOST_CHUNKS * policy.chunk)
    # In steps, as each change of the head room makes a libvirt call to arm the threshold again.
    step = max(policy.high_watermark // 4, ALIGNMENT_BYTES)
    desired = math.ceil(written * SAFETY / step) * step
    chunks = min(max(math.ceil(written * STRIDE / policy.chunk), 1), MOST_CHUNKS)
    return Policy(
        high_watermark=min(max(policy.high_watermark, desired), most),
        chunk=chunks * policy.chunk,
    )


def seconds_until_full(*, free: int, rate: float) -> float:
    """Return how long a volume lasts with that much free; infinite where nothing is written."""
    return max(free, 0) / rate if rate > 0 else math.inf


def seconds_to_spare(*, free: int, rate: float, extension_seconds: float) -> float:
    """Return how long an extension can be put off so that the volume does not run full before it is done."""
    return max(0.0, seconds_until_full(free=free, rate=rate) - SAFETY * extension_seconds)
