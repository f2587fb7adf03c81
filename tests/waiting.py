"""Waiting in tests: for a condition, never for a time."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_PAUSE_SHARE = 0.1
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.25
"""A look often asks the API server. Twenty a second of each worker took a third of the processor."""

# How many times slower than a machine of its own this one is, as the LVM lane's emulated one.
PATIENCE = float(os.environ.get("DISKMIGRATION_TEST_PATIENCE", "1"))


def wait_until(observe: Callable[[], _T | None], what: str, *, seconds: float = 30) -> _T:
    """The first true thing that is observed, within that time or what this machine takes for as much."""
    begun = time.monotonic()
    while not (found := observe()):
        waited = time.monotonic() - begun
        assert waited < seconds * PATIENCE, f"not within {seconds} s: {what}"
        # Between two looks: what is waited for, in another process, wakes nobody here.
        time.sleep(min(max(waited * _PAUSE_SHARE, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS))
    return found
