"""Whether a mirror ever gets to its end: a guest may write faster than it copies. Pure; times in seconds."""

from dataclasses import dataclass

WINDOW_SECONDS = 15.0
"""How long it is watched before it is judged: a burst of the guest's is not the guest."""
_LEAST_SHARE = 0.1
"""What must be gained of what is copied. With less, a tenth of the copy's own rate is what is left to end it with."""


@dataclass(frozen=True)
class Reading:
    """The bytes that were copied, and those that are left, at one time."""

    at: float
    copied: int
    remaining: int


@dataclass(frozen=True)
class Convergence:
    """What was read of one block job: `since` is the reading by which the next ones are judged."""

    since: Reading | None = None
    falls_behind: bool = False

    def advanced(self, *, now: float, copied: int, remaining: int) -> "Convergence":
        """With a new reading, which is judged when it is far enough from the last one that was."""
        newest = Reading(now, copied, remaining)
        if self.since is None or copied < self.since.copied:
            return Convergence(newest)
        if now - self.since.at < WINDOW_SECONDS:
            return self
        moved, gained = copied - self.since.copied, self.since.remaining - remaining
        return Convergence(newest, falls_behind=moved > 0 and remaining > 0 and gained < moved * _LEAST_SHARE)
