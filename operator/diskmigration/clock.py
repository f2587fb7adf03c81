"""The time of day, as the API server has it: the clock of a node may be wrong.

Both programs judge deadlines, cutovers and TTLs by it, and agents each other's Leases. Every answer of the API server
has its time in whole seconds (RFC 9110, 6.6.1), and the machine's clock is believed where it differs by no more than
that can tell. Between two answers the time goes on by a clock that nobody sets.
"""

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_log = logging.getLogger(__name__)

TOLERATED_SECONDS = 2.0
_TOLD_SECONDS = 5.0
_STEADY = time.CLOCK_BOOTTIME


@dataclass(frozen=True)
class Reading:
    """The API server's time at a moment of the machine's steady clock, in seconds."""

    server_time: datetime
    steady_seconds: float

    def at(self, steady_seconds: float) -> datetime:
        """Return the API server's time at that moment."""
        return self.server_time + timedelta(seconds=steady_seconds - self.steady_seconds)


def reading_of(date: str | None, *, asked: float, answered: float) -> Reading | None:
    """Return what an answer's Date header tells; None where it tells nothing. Pure.

    `asked` and `answered` are of the steady clock. An answer that took long tells little of when the server wrote it.
    """
    if date is None or answered - asked > TOLERATED_SECONDS:
        return None
    try:
        told = parsedate_to_datetime(date)
    except ValueError:
        return None
    if told.tzinfo is None:
        return None
    # The header cuts the second off: on average half of one.
    return Reading(told + timedelta(seconds=0.5), (asked + answered) / 2)


def time_by(reading: Reading | None, *, steady: float, machine: datetime) -> datetime:
    """Return the time of day by the last reading and the machine's own clock. Pure."""
    if reading is None:
        return machine
    server = reading.at(steady)
    return machine if abs((server - machine).total_seconds()) <= TOLERATED_SECONDS else server


@dataclass
class _Clock:
    """The last reading, which is replaced whole, so that threads need no lock."""

    reading: Reading | None = None
    has_told: bool = False


_clock = _Clock()


def steady_seconds() -> float:
    """Return the seconds of the clock that nobody sets."""
    return time.clock_gettime(_STEADY)


def machine_time() -> datetime:
    """Return the time of day of the machine's own clock, which nobody else reads."""
    return datetime.now(UTC)


def note(date: str | None, *, asked: float, answered: float) -> None:
    """Take in the Date header of an answer; see `reading_of`."""
    reading = reading_of(date, asked=asked, answered=answered)
    if reading is None:
        return
    _clock.reading = reading
    is_wrong = abs(skew_seconds()) > _TOLD_SECONDS
    if is_wrong and not _clock.has_told:
        _log.warning(
            "the clock of this machine differs from the API server's, which is gone by",
            extra={"skewSeconds": round(skew_seconds())},
        )
    _clock.has_told = is_wrong


def now() -> datetime:
    """Return the time of day, in UTC."""
    return time_by(_clock.reading, steady=steady_seconds(), machine=machine_time())


def skew_seconds() -> float:
    """Return by how much the machine's clock is ahead of the API server's; 0 where they agree, or it is not known."""
    machine = machine_time()
    return (machine - time_by(_clock.reading, steady=steady_seconds(), machine=machine)).total_seconds()
