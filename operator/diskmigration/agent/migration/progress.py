"""How far a move is, how fast it goes, and whether it still goes at all. Pure; time is a parameter, in seconds."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from diskmigration.agent.migration.activity import Activity
from diskmigration.api.disk_migration import Progress
from diskmigration.api.quantity import human_readable

RATE_WINDOW_SECONDS = 10.0
_UNKNOWN_PERCENT = -1
TELL_SECONDS = 15.0
"""How often the amount of a merge is told that gains less than a percent meanwhile."""


@dataclass(frozen=True)
class Meter:
    """Counts one attempt. What is shown never goes back; whether bytes still move is told apart from that."""

    copied: int = 0
    total: int = 0
    last_raw: int = 0
    last_progress_at: float | None = None
    percent: int = 0
    samples: tuple[tuple[float, int], ...] = field(default=())

    def advanced(self, *, now: float, copied: int, total: int) -> "Meter":
        """With a new reading; `copied` and `total` in bytes over the whole move."""
        shown = max(self.copied, min(copied, total))
        end = max(self.total, total, shown)
        moved = copied != self.last_raw or self.last_progress_at is None
        kept = tuple(sample for sample in self.samples if now - sample[0] <= RATE_WINDOW_SECONDS)
        # A full bar is for a finished move: the merge and the clean-up still follow the last byte.
        percent = min(99, shown * 100 // end) if end else 0
        return replace(
            self,
            copied=shown,
            total=end,
            last_raw=copied,
            last_progress_at=now if moved else self.last_progress_at,
            percent=max(self.percent, percent),
            samples=(*kept, (now, shown)),
        )

    def bytes_per_second(self) -> int:
        """Return the rate over the last seconds."""
        if len(self.samples) < 2:
            return 0
        (first_at, first), (last_at, last) = self.samples[0], self.samples[-1]
        return int((last - first) / (last_at - first_at)) if last_at > first_at else 0

    def is_stuck(self, *, now: float, timeout_seconds: float) -> bool:
        """Return whether no byte has moved for so long."""
        return self.last_progress_at is not None and now - self.last_progress_at > timeout_seconds

    def restarted(self, *, now: float) -> "Meter":
        """Return the same figures with a fresh clock, for a wait in which no bytes are due."""
        return replace(self, last_progress_at=now)

    def excused(self, seconds: float, *, now: float) -> "Meter":
        """Return the same figures with a clock that stood still for so many seconds, in which nobody could look."""
        if self.last_progress_at is None:
            return self
        return replace(self, last_progress_at=min(self.last_progress_at + seconds, now))

    def to_status(self, *, wall_clock: datetime) -> Progress:
        """As the status shows it; the end is estimated where the rate is known."""
        rate = self.bytes_per_second()
        left = self.total - self.copied
        return Progress(
            copied_bytes=self.copied,
            total_bytes=self.total,
            percent=self.percent,
            bytes_per_second=rate,
            estimated_completion_time=wall_clock + timedelta(seconds=min(left / rate, 1e9)) if rate and left else None,
        )


@dataclass(frozen=True)
class LiveMerge:
    """A merge that QEMU makes.

    `bandwidth` is what it was last limited to: somebody else may have changed that since, and means it. `total_bytes`
    is what it had to copy when it was first looked at, and None before QEMU has counted that.
    """

    bandwidth: int | None
    total_bytes: int | None = None


@dataclass(frozen=True)
class MergeProgress:
    """How far a merge is, as the status tells it: again when a percent was gained, or after a while."""

    activity: Activity | None = None
    percent: int = _UNKNOWN_PERCENT
    told_at: float = 0.0

    def advanced(
        self, *, now: float, what: str, since: datetime, share: float | None, copied: int = 0, total: int = 0
    ) -> "MergeProgress":
        """With a new reading: `share` from 0 to 1, or None where it is not known yet, and bytes where they are known.

        `what` says what is merged.
        """
        percent = int(share * 100) if share is not None else _UNKNOWN_PERCENT
        if self.activity is not None and percent == self.percent and now - self.told_at < TELL_SECONDS:
            return self
        size = f" ({human_readable(copied)} of {human_readable(total)})" if total else ""
        amount = f"{percent} %{size}" if share is not None else ""
        return MergeProgress(Activity(what, since, amount), percent, now)
