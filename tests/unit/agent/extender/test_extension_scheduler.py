"""What is due first is done first."""

import math
import threading

from diskmigration.agent.extender.extension_scheduler import PriorityExecutor
from tests.unit.agent.waiting import until


def test_the_nearest_to_full_comes_first_whenever_it_came() -> None:
    queue = PriorityExecutor(1, name="test")
    is_blocked, may_go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def block() -> None:
        is_blocked.set()
        may_go_on.wait(10)

    queue.submit(0.0, block)
    assert is_blocked.wait(10)
    for due_at, name in ((math.inf, "idle"), (9.0, "later"), (3.0, "soon"), (math.inf, "idle too"), (3.0, "as soon")):
        queue.submit(due_at, lambda name=name: done.append(name))  # type: ignore[misc]  # bound now
    is_done = threading.Event()
    queue.submit(math.inf, is_done.set)
    may_go_on.set()

    assert is_done.wait(10)
    queue.stop()
    assert done == ["soon", "as soon", "later", "idle", "idle too"]


def test_what_waits_at_the_end_is_dropped() -> None:
    queue = PriorityExecutor(1, name="test")
    is_blocked, may_go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def block() -> None:
        is_blocked.set()
        may_go_on.wait(10)

    queue.submit(0.0, block)
    assert is_blocked.wait(10)
    stopper = threading.Thread(target=queue.stop)

    def is_refused() -> bool:
        try:
            queue.submit(1.0, lambda: done.append(1))
        except RuntimeError:
            return True
        return False

    assert not is_refused()
    stopper.start()
    until(is_refused)
    may_go_on.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert done == []
