"""Points in the code of each step at which a test holds or breaks the agent, as gofail has them in etcd.

No test enables one in production, where a failpoint costs a look at one variable.
"""

from collections.abc import Callable
from typing import Literal

from diskmigration.agent.migration.decision import Step

Point = Literal["before", "midway", "acted"]
"""Where a step is.

- before: nothing was done yet.
- midway: a part of it is done. For example, the snapshot's volume is there, and the snapshot is not.
- acted: all of it is done, and neither the journal nor the worker knows.
"""
Handler = Callable[[str], None]

_handler: Handler | None = None


def enable(handler: Handler) -> None:
    """Call the handler with the name of each failpoint; the migration's thread goes on when it returns."""
    global _handler  # noqa: PLW0603 - one a process, set before anything runs
    _handler = handler


def failpoint(step: Step, point: Point) -> None:
    """Run what a test has enabled at this point of the step, for example at `Pivot.acted`."""
    if _handler is not None:
        _handler(f"{step}.{point}")
