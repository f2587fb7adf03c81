"""The console's lines are read as they were said, however they arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.guest.console import Transcript


def told(*lines_at: tuple[str, float]) -> Transcript:
    transcript = Transcript()
    for line, at in lines_at:
        transcript.tell(f"{line}\r\n".encode(), at)
    return transcript


def test_the_longest_gap_is_between_two_acknowledgements() -> None:
    transcript = told(("writing 4 16384", 0), ("ack 0", 10), ("ack 1", 10.5), ("ack 2", 13), ("ack 3", 13.5))
    assert transcript.longest_gap_seconds(now=14) == 2.5
    assert transcript.longest_gap_at == 10.5
    assert transcript.acknowledged == 3


def test_a_guest_that_says_no_more_has_an_open_gap() -> None:
    transcript = told(("ack 0", 1), ("ack 1", 2))
    assert transcript.longest_gap_seconds(now=9) == 7


def test_a_guest_that_was_asked_to_stop_has_none() -> None:
    transcript = told(("ack 0", 1), ("ack 1", 2), ("stopped 1", 2.5))
    assert transcript.has_stopped
    assert transcript.longest_gap_seconds(now=100) == 1


def test_what_was_not_yet_told_in_a_batch_is_told_at_the_stop() -> None:
    assert told(("ack 15", 1), ("stopped 20", 2)).acknowledged == 20


def test_the_time_of_the_boot_is_no_gap() -> None:
    assert told(("writing 4 16384", 0), ("ack 0", 60)).longest_gap_seconds(now=60) == 0


@pytest.mark.parametrize(
    ("start", "end", "longest"),
    [
        (1, 2, 1),  # from one acknowledgement to the next
        (2.5, 4.5, 3),  # one that began before, to its end after
        (5.5, 8, 2.5),  # the open one at the end
        (0, 1.5, 1),  # the time before the first is the boot's
        (7, 9, 3.5),  # nothing in the stretch at all
    ],
)
def test_the_gaps_of_a_stretch_of_time(start: float, end: float, longest: float) -> None:
    transcript = told(("ack 0", 1), ("ack 1", 2), ("ack 2", 5), ("ack 3", 5.5))
    assert transcript.longest_gap_between_seconds(start, end) == longest


def test_a_guest_that_said_nothing_has_one_gap() -> None:
    assert Transcript().longest_gap_between_seconds(3, 7) == 4


@pytest.mark.parametrize("again", ["ack 0", "ack 1"])
def test_a_guest_that_begins_anew_has_failed(again: str) -> None:
    transcript = told(("ack 0", 1), ("ack 1", 2), (again, 3))
    assert transcript.failure is not None
    assert "began anew" in transcript.failure


def test_a_failure_is_kept_with_its_reason() -> None:
    assert told(("failed record 7: input/output error", 1)).failure == "record 7: input/output error"


@given(st.integers(1, 40), st.lists(st.integers(1, 30)))
def test_lines_are_whole_however_they_are_cut(count: int, cuts: list[int]) -> None:
    stream = b"".join(f"ack {number}\r\n".encode() for number in range(count)) + b"ack 99"
    transcript = Transcript()
    for length in [*cuts, len(stream)]:
        chunk, stream = stream[:length], stream[length:]
        transcript.tell(chunk, 1.0)
    # The last line has no end: it may be a part of `ack 990`.
    assert transcript.acknowledged == count - 1
    assert transcript.failure is None
