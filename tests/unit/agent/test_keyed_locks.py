"""A lock for each key, of which nothing stays when nobody needs it."""

import threading

import pytest

from diskmigration.agent.keyed_locks import KeyedLocks
from tests.unit.agent.waiting import PATIENCE_SECONDS


def test_one_at_a_time_has_a_key_and_other_keys_are_free() -> None:
    locks: KeyedLocks[str] = KeyedLocks()
    has_it = threading.Event()

    def take() -> None:
        with locks.of("a"):
            has_it.set()

    with locks.of("a"):
        other = threading.Thread(target=take, daemon=True)
        other.start()
        with locks.of("b"):
            assert not has_it.is_set()
        assert len(locks) == 1
    assert has_it.wait(PATIENCE_SECONDS)
    other.join(PATIENCE_SECONDS)
    assert len(locks) == 0


def test_nothing_stays_of_one_that_failed() -> None:
    locks: KeyedLocks[tuple[str, str]] = KeyedLocks()
    for number in range(100):
        with pytest.raises(ZeroDivisionError), locks.of(("vm", str(number))):
            raise ZeroDivisionError
    assert len(locks) == 0
