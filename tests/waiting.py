"""Waiting in tests: for a condition, never for a time."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

# How many times slower than a machine of its own this one is, as the LVM lane's emulated one.
PATIENCE = float(os.environ.get("DISKMIGRATION_TEST_PATIENCE", "1"))


def wait_until(observe: Callable[[], _T | None], what: str, *, seconds: float = 30) -> _T:
    """The first true thing that is observed, within that time or what this machine takes for as much."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not (found := observe()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)  # between two looks: what is waited for, in another process, wakes nobody here
    return found
