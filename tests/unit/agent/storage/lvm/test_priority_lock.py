import threading

import pytest

from diskmigration.agent.storage.lvm.priority_lock import PriorityLock
from tests.unit.agent.waiting import until


def test_the_urgent_come_first_and_nobody_shares_a_turn() -> None:
    turns = PriorityLock()
    order: list[str] = []
    held = threading.Lock()

    def work(name: str, *, urgent: bool) -> None:
        with turns.take(urgent=urgent):
            assert held.acquire(blocking=False)
            order.append(name)
            held.release()

    with turns.take():
        threads = [threading.Thread(target=work, args=(f"slow-{n}",), kwargs={"urgent": False}) for n in range(3)]
        threads += [threading.Thread(target=work, args=(f"urgent-{n}",), kwargs={"urgent": True}) for n in range(3)]
        for thread in threads:
            thread.start()
        # All six wait: the condition's own list of waiters says so.
        until(lambda: len(turns._condition._waiters) == 6)  # type: ignore[attr-defined]
        assert order == []
    for thread in threads:
        thread.join(10)
    assert sorted(order[:3]) == ["urgent-0", "urgent-1", "urgent-2"]
    assert sorted(order[3:]) == ["slow-0", "slow-1", "slow-2"]


def test_a_failure_gives_the_turn_back() -> None:
    turns = PriorityLock()
    with pytest.raises(ZeroDivisionError), turns.take(urgent=True):
        _ = 1 // 0
    assert turns.wait_until_free(timeout=0)
    with turns.take():
        assert not turns.wait_until_free(timeout=0.01)
