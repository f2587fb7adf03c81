"""Reads that may never return cost whoever asks a bounded time, and one thread."""

import threading

import pytest

from diskmigration.agent.storage.bounded_reads import BoundedReads, NoAnswerError

LONG = 600.0


def raises() -> int:
    raise TimeoutError("as the kernel says it")


def test_the_answer_is_handed_on() -> None:
    reads = BoundedReads("test")
    assert reads.read("a", lambda: 5, seconds=LONG) == 5
    with pytest.raises(TimeoutError, match="as the kernel says it"):
        reads.read("a", raises, seconds=LONG)


def test_one_that_hangs_is_asked_once_until_it_has_returned() -> None:
    reads, release = BoundedReads("test-hangs"), threading.Event()
    calls: list[int] = []

    def hangs() -> int:
        calls.append(len(calls))
        release.wait()
        return len(calls)

    for _ in range(3):
        with pytest.raises(NoAnswerError):
            reads.read("a", hangs, seconds=0.0)
    assert [thread.name for thread in threading.enumerate()].count("test-hangs") == 1
    assert reads.read("b", lambda: 7, seconds=LONG) == 7
    release.set()
    # Not the answer to what was asked before: that may be old.
    assert reads.read("a", hangs, seconds=LONG) == 2
    assert calls == [0, 1]
