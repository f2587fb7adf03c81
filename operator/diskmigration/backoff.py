"""How long to wait before something that has failed is tried again: twice as long each time, up to a bound."""

import random
from dataclasses import dataclass

_MOST_DOUBLINGS = 64
"""More would pass every bound, and 1,024 the largest float."""


@dataclass(frozen=True)
class Backoff:
    """The first wait and the longest one."""

    first_seconds: float
    longest_seconds: float

    def seconds(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row, 0 after none. Pure."""
        if failures <= 0:
            return 0.0
        return min(self.first_seconds * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), self.longest_seconds)

    def spread_seconds(self, failures: int) -> float:
        """Return between half of that and the whole, drawn at random: many that failed at once come back apart."""
        return self.seconds(failures) * random.uniform(0.5, 1.0)  # noqa: S311 - it keeps no secret
