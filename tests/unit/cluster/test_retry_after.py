"""The API server is left alone for as long as it asks for, by kind."""

import pytest

from diskmigration.cluster.retry_after import LONGEST_SECONDS, Pauses, asked_seconds


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "1", 1),
        (503, "7", 7),
        (500, "7", 7),
        (200, "7", 0),
        (409, "7", 0),
        (429, None, 0),
        (429, "", 0),
        (429, "-1", 0),
        (429, "soon", 0),
        (429, "\u0663", 0),
        (503, "Fri, 31 Dec 1999 23:59:59 GMT", 0),
        (503, "86400", LONGEST_SECONDS),
        (503, "9" * 5000, LONGEST_SECONDS),
    ],
)
def test_how_long_an_answer_asks_for(status: int, header: str | None, seconds: float) -> None:
    assert asked_seconds(status, header) == seconds


def test_a_kind_rests_and_the_others_do_not() -> None:
    now = 100.0
    pauses = Pauses(lambda: now)
    pauses.note("events", 429, "5")
    assert (pauses.left("events"), pauses.left("leases")) == (5, 0)
    now = 103.0
    assert pauses.left("events") == 2
    pauses.note("leases", 200, None)
    assert pauses.left("events") == 2
    now = 105.0
    assert pauses.left("events") == 0
    pauses.note("events", 201, None)
    assert pauses.left("events") == 0
