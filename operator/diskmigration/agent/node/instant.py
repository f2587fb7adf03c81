"""A moment on both clocks: one to count seconds with, one to show to people."""

import time
from dataclasses import dataclass
from datetime import datetime

from diskmigration import clock


@dataclass(frozen=True)
class Instant:
    """`seconds` are those of the monotonic clock."""

    seconds: float
    date: datetime

    @classmethod
    def now(cls) -> "Instant":
        """Return the present moment."""
        return cls(time.monotonic(), clock.now())
