"""Which nodes' agents are alive, by their Leases. Pure.

A Lease's renewTime is the agent's clock, so it is not compared with ours: what counts is for how long it has not
changed while we were looking. Time in which the API server did not answer counts for nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from diskmigration.cluster.leases import Lease


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease's renewTime as last read, and for how many seconds of looking it has been that.

    `first_age_seconds` is how old it was by its own word when it was first read, and 0 once it was seen to change.
    """

    renew_time: datetime
    unchanged_seconds: float
    first_age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Liveness:
    """The nodes whose agents are alive, and those of which it is too early to tell. All others are not alive."""

    live: frozenset[str] = frozenset()
    unjudged: frozenset[str] = frozenset()


def look(
    before: Mapping[str, Seen], leases: Mapping[str, Lease], *, looked_for_seconds: float, now: datetime
) -> dict[str, Seen]:
    """Return what is known after one more look, so long after the last one that succeeded."""
    return {name: _after(before.get(name), lease, looked_for_seconds, now) for name, lease in leases.items()}


def _after(known: Seen | None, lease: Lease, looked_for_seconds: float, now: datetime) -> Seen:
    if known is None:
        return Seen(lease.renew_time, 0.0, max(0.0, (now - lease.renew_time).total_seconds()))
    if known.renew_time != lease.renew_time:
        return Seen(lease.renew_time, 0.0)
    return Seen(lease.renew_time, known.unchanged_seconds + looked_for_seconds, known.first_age_seconds)


def judge(seen: Mapping[str, Seen], *, stale_seconds: float) -> Liveness:
    """Return who is alive.

    Nobody is dead before he was watched for the whole time. A Lease that looks old at first may be so because the API
    server took no renewals from anybody, or because its node's clock is wrong: it is not judged until it changes, or
    until that time is over.
    """
    watched = {name: one for name, one in seen.items() if one.unchanged_seconds < stale_seconds}
    live = frozenset(name for name, one in watched.items() if one.first_age_seconds < stale_seconds)
    return Liveness(live, frozenset(watched) - live)
