"""Loops that run as long as the process: whatever one turn raises is logged, and the next turn follows."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
"""How long a loop waits after a turn that failed, so that a lasting failure does not make it spin."""


@contextmanager
def surviving(loop: str, *, pause: Callable[[float], object] = time.sleep) -> Iterator[None]:
    """Log an exception of the block with its traceback, call `pause`, and go on behind the block.

    A thread that ends by an exception leaves its work undone until the process is restarted, and nobody notices.
    """
    try:
        yield
    except Exception:  # noqa: BLE001 - any exception would end the thread
        _log.exception("a loop failed in one turn and goes on", extra={"loop": loop})
        pause(PAUSE_SECONDS)
