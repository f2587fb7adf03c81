"""What a migration does or waits for, as its status tells it: in words, and since when."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from diskmigration import clock
from diskmigration.api.model import rfc3339

Doing = Callable[[str], AbstractContextManager[object]]
"""As `Operations.doing`."""

TELL_SECONDS = 2.0
"""An operation that takes no longer is told by its step alone."""
_SINCE = re.compile(r"(?: This has lasted)? since (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")


@dataclass(frozen=True)
class Activity:
    """`what` is a whole sentence, or words as "Copying a to b"; `amount` tells how much of it is done."""

    what: str
    since: datetime
    amount: str = ""

    @property
    def message(self) -> str:
        """Return what the user reads."""
        since = f"since {rfc3339(self.since)}"
        if self.what.endswith("."):
            return f"{self.what} This has lasted {since}."
        return f"{self.what} {since}{f': {self.amount}' if self.amount else ''}."


def sentence(text: str) -> str:
    """Return an error's message, which may end with a program's answer, as a whole sentence."""
    return text if text.endswith(".") else f"{text}."


def activity_of(what: str, *, shown: str, now: datetime) -> Activity:
    """Return the activity with its begin.

    `shown` is the message that the status has, which an agent before this one may have written: an activity that it
    tells of goes on.
    """
    found = _SINCE.match(shown, len(what)) if shown.startswith(what) else None
    if found is not None:
        with suppress(ValueError):
            return Activity(what, datetime.fromisoformat(found[1]))
    return Activity(what, now)


@dataclass(frozen=True, eq=False)
class _Operation:
    activity: Activity
    began_at: float


class Operations:
    """The operations that the threads of one migration are doing now. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._current: list[_Operation] = []

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Have the status say `what` if the block takes long: words as "Extending a"."""
        operation = _Operation(Activity(what, clock.now()), time.monotonic())
        with self._guard:
            self._current.append(operation)
        try:
            yield
        finally:
            with self._guard:
                self._current.remove(operation)

    def lasting(self, *, now: float) -> Activity | None:
        """Return the newest operation that has taken so long that it is told, or None."""
        with self._guard:
            return next(
                (each.activity for each in reversed(self._current) if now >= each.began_at + TELL_SECONDS), None
            )
