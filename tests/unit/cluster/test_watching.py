"""A watch that ends is begun again, later each time."""

import asyncio
from collections.abc import Sequence

import pytest

from diskmigration.cluster.watching import (
    BACKOFF,
    LASTED_SECONDS,
    WatchHangsError,
    keep_watching,
)


class Watches:
    """Watches of which each lasts so long and ends so; the last one cancels the whole."""

    def __init__(self, ends: Sequence[tuple[float, Exception | None]]) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self._ends = list(ends)

    async def run(self) -> None:
        if not self._ends:
            raise asyncio.CancelledError
        lasted, error = self._ends.pop(0)
        self.now += lasted
        if error is not None:
            raise error

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def keep(self, **options: type[Exception]) -> None:
        asyncio.run(keep_watching(self.run, sleep=self.sleep, clock=lambda: self.now, **options))


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyError("items"), WatchHangsError("x"), None])
def test_it_is_begun_again_however_it_ended(error: Exception | None) -> None:
    watches = Watches([(0.0, error)] * 5)
    with pytest.raises(asyncio.CancelledError):
        watches.keep()
    assert len(watches.pauses) == 5


def test_what_is_fatal_ends_it() -> None:
    watches = Watches([(0.0, RuntimeError("x")), (0.0, WatchHangsError("x"))])
    with pytest.raises(WatchHangsError):
        watches.keep(fatal=WatchHangsError)
    assert len(watches.pauses) == 1


def test_it_waits_longer_each_time_up_to_an_end() -> None:
    watches = Watches([(0.0, RuntimeError("x"))] * 12)
    with pytest.raises(asyncio.CancelledError):
        watches.keep()
    for failures, pause in enumerate(watches.pauses, start=1):
        assert BACKOFF.seconds(failures) / 2 <= pause <= BACKOFF.seconds(failures)
    assert watches.pauses[0] <= BACKOFF.first_seconds
    assert BACKOFF.longest_seconds / 2 <= watches.pauses[-1] <= BACKOFF.longest_seconds


def test_one_that_lasted_is_begun_again_soon() -> None:
    watches = Watches([(0.0, RuntimeError("x"))] * 8 + [(LASTED_SECONDS + 1, RuntimeError("x"))])
    with pytest.raises(asyncio.CancelledError):
        watches.keep()
    assert watches.pauses[-2] > BACKOFF.first_seconds
    assert watches.pauses[-1] <= BACKOFF.first_seconds
