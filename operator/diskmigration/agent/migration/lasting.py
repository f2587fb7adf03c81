"""Show what lasts: a worker that waits in a call cannot do so itself."""

import threading
from collections.abc import Callable, Iterable

from diskmigration.agent.migration.worker import Worker
from diskmigration.observability.loops import surviving

_SECONDS = 1.0


def show_what_lasts(workers: Callable[[], Iterable[Worker]], stopping: threading.Event) -> None:
    """Have the statuses of all workers say what their threads are in the midst of, until `stopping` is set."""
    while not stopping.wait(_SECONDS):
        _show(workers(), stopping)


def _show(workers: Iterable[Worker], stopping: threading.Event) -> None:
    # A function of its own: a worker that has ended is not kept until the next turn.
    for worker in workers:
        with surviving("the messages of migrations", pause=stopping.wait):
            worker.show_what_lasts()
