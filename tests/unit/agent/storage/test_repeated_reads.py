"""A read that is slow is answered by the one before it, and one that hangs is told."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from diskmigration.agent.storage import repeated_reads
from diskmigration.agent.storage.bounded_reads import NoAnswerError
from diskmigration.agent.storage.repeated_reads import RepeatedReads

LONG = 600.0
AT_ONCE = 0.05
SLOW = 0.3


@pytest.fixture
def never() -> Iterator[Callable[[], int]]:
    """A read that returns at the test's end alone."""
    release = threading.Event()

    def read() -> int:
        release.wait()
        return 0

    yield read
    release.set()


def slow() -> int:
    threading.Event().wait(SLOW)  # how long it takes is what is tested
    return 1


def fails() -> int:
    raise TimeoutError("as the kernel says it")


def test_what_answers_in_time_is_read_anew() -> None:
    reads, numbers = RepeatedReads("test"), itertools.count()
    assert [reads.read("a", numbers.__next__, seconds=LONG) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(TimeoutError, match="as the kernel says it"):
        reads.read("a", fails, seconds=LONG)


def test_one_that_is_as_slow_as_the_last_one_is_answered_by_that() -> None:
    reads = RepeatedReads("test")
    assert reads.read("a", slow, seconds=LONG) == 1
    # Slower than what is waited for, time after time.
    for _ in range(3):
        assert reads.read("a", slow, seconds=AT_ONCE) == 1


def test_a_fast_one_among_slow_ones_makes_none_of_them_hang() -> None:
    reads = RepeatedReads("test")
    reads.read("a", slow, seconds=LONG)
    assert reads.read("a", lambda: 2, seconds=LONG) == 2
    assert reads.read("a", slow, seconds=AT_ONCE) == 2


@pytest.mark.parametrize("name", ["MOST_SECONDS", "_LATE_SECONDS"])
def test_one_that_hung_or_was_slow_long_ago_is_no_measure(
    never: Callable[[], int], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(repeated_reads, name, 0.0)
    reads = RepeatedReads("test")
    reads.read("a", slow, seconds=LONG)
    assert reads.read("a", lambda: 2, seconds=LONG) == 2
    monkeypatch.setattr(repeated_reads, "MOST_SECONDS", LONG)
    with pytest.raises(NoAnswerError):
        reads.read("a", never, seconds=AT_ONCE)


def test_one_that_was_given_up_has_its_answer_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_reads, "_SLOW_FACTOR", LONG)
    reads, goes_on = RepeatedReads("test"), threading.Event()

    def waits() -> int:
        goes_on.wait()
        return 5

    with pytest.raises(NoAnswerError):
        reads.read("a", waits, seconds=AT_ONCE)
    with ThreadPoolExecutor(1) as thread:
        # It waits for the one that was given up, and reads anew then.
        second = thread.submit(reads.read, "a", lambda: 6, seconds=LONG)
        goes_on.set()
        assert second.result(LONG) == 6


def test_a_failure_is_an_answer_as_well(never: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_reads, "_SLOW_FACTOR", 1e9)
    reads = RepeatedReads("test")
    with pytest.raises(TimeoutError):
        reads.read("a", fails, seconds=LONG)
    with pytest.raises(TimeoutError):
        reads.read("a", never, seconds=AT_ONCE)


@pytest.mark.parametrize("most", [LONG, 0.0])
def test_one_that_takes_much_longer_than_the_last_one_hangs(
    never: Callable[[], int], monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    monkeypatch.setattr(repeated_reads, "MOST_SECONDS", most)
    monkeypatch.setattr(repeated_reads, "_SLOW_FACTOR", 0.0 if most else 1e9)
    reads = RepeatedReads("test")
    assert reads.read("a", lambda: 1, seconds=LONG) == 1
    with pytest.raises(NoAnswerError):
        reads.read("a", never, seconds=AT_ONCE)


def test_what_is_not_asked_for_any_more_is_forgotten(never: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_reads, "_SLOW_FACTOR", 1e9)
    reads = RepeatedReads("test")
    for key in ("a", "b"):
        assert reads.read(key, lambda: 1, seconds=LONG) == 1
    reads.keep_only({"a"})
    assert reads.read("a", never, seconds=AT_ONCE) == 1
    with pytest.raises(NoAnswerError):
        reads.read("b", never, seconds=AT_ONCE)
