"""The moments of each step at which something may break: a test listens to break it just then.

In production nobody listens, and a moment costs a look at one variable.
"""

from collections.abc import Callable
from enum import StrEnum

from diskmigration.agent.migration.decision import Step


class Moment(StrEnum):
    """Where a step is."""

    BEFORE = "before"
    """Nothing was done yet."""
    MIDWAY = "midway"
    """A part of it is done: say, the snapshot's volume is there, and the snapshot is not."""
    ACTED = "acted"
    """All of it is done, and nothing says so yet: neither the journal nor what the worker has seen."""


Listener = Callable[[Step, Moment], None]

_listener: Listener | None = None


def listen(listener: Listener) -> None:
    """Has this called at each moment, in the thread of the migration, which goes on when it returns."""
    global _listener  # noqa: PLW0603 - one a process, set before anything runs
    _listener = listener


def reach(step: Step, moment: Moment) -> None:
    """Says that a migration is there."""
    if _listener is not None:
        _listener(step, moment)
