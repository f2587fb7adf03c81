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
    """A Lease's renewTime as last read, and for how many seconds of looking it has been that."""

    renew_time: datetime
    unchanged_seconds: float


def look(
    before: Mapping[str, Seen], leases: Mapping[str, Lease], *, looked_for_seconds: float, now: datetime
) -> dict[str, Seen]:
    """What is known after one more look, so long after the last one that succeeded.

    A Lease that is seen for the first time is as old as it says.
    """
    return {name: _after(before.get(name), lease, looked_for_seconds, now) for name, lease in leases.items()}


def _after(known: Seen | None, lease: Lease, looked_for_seconds: float, now: datetime) -> Seen:
    if known is None:
        return Seen(lease.renew_time, max(0.0, (now - lease.renew_time).total_seconds()))
    if known.renew_time != lease.renew_time:
        return Seen(lease.renew_time, 0.0)
    return Seen(lease.renew_time, known.unchanged_seconds + looked_for_seconds)


def live(seen: Mapping[str, Seen], *, stale_seconds: float) -> frozenset[str]:
    """The names whose Lease was renewed in time."""
    return frozenset(name for name, one in seen.items() if one.unchanged_seconds < stale_seconds)
