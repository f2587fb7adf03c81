"""What other threads do is waited for, and never for longer than it can take."""

import time
from collections.abc import Callable

PATIENCE_SECONDS = 10.0


def until(is_so: Callable[[], object]) -> None:
    """Returns as soon as it is so; fails the test where it does not come about in time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)  # between two looks: there is nothing to wake this thread
