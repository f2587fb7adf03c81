"""Which places in storage domains are taken, and which room at destinations is promised.

Each change costs constant time. A migration is known by its uid.
"""

from collections import Counter
from dataclasses import dataclass, replace

from diskmigration.api.storage_domain import StorageDomain


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an active migration occupies. Its node is empty and its bytes 0 where nobody can tell any more.

    `awaits_cutover` tells that it is in step and waits for its cutover: it copies only what its guest writes.
    """

    source: str
    destination: str
    node: str = ""
    needed_bytes: int = 0
    written_bytes: int = 0
    awaits_cutover: bool = False

    @property
    def outstanding_bytes(self) -> int:
        """What it has yet to write."""
        return max(0, self.needed_bytes - self.written_bytes)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many migrations of a storage domain may run at once, and how many more may wait for their cutover."""

    concurrent: int
    synchronized: int


def limits_of(domain: StorageDomain | None) -> Limits:
    """Return a storage domain's limits; one that is not known takes none."""
    if domain is None:
        return Limits(0, 0)
    return Limits(domain.spec.max_concurrent_migrations, domain.spec.max_synchronized_migrations)


class Reservations:
    """The active migrations of each storage domain, over all nodes."""

    def __init__(self) -> None:
        """Nothing is active."""
        self._holds: dict[str, Reservation] = {}
        self._active: Counter[str] = Counter()
        self._awaiting: Counter[str] = Counter()
        self._outstanding: Counter[tuple[str, str]] = Counter()

    def hold(self, uid: str, hold: Reservation) -> None:
        """Counts a migration as active; an earlier hold of it is replaced."""
        self.release(uid)
        self._holds[uid] = hold
        self._active.update((hold.source, hold.destination))
        if hold.awaits_cutover:
            self._awaiting.update((hold.source, hold.destination))
        self._outstanding[hold.destination, hold.node] += hold.outstanding_bytes

    def progress(self, uid: str, written_bytes: int, *, awaits_cutover: bool = False) -> None:
        """Take in how far a migration is; nothing if it is not active."""
        if (hold := self._holds.get(uid)) is not None:
            now = replace(hold, written_bytes=written_bytes, awaits_cutover=awaits_cutover)
            if now != hold:
                self.hold(uid, now)

    def release(self, uid: str) -> Reservation | None:
        """Ends a hold; what it was, or None."""
        hold = self._holds.pop(uid, None)
        if hold is not None:
            self._active.subtract((hold.source, hold.destination))
            if hold.awaits_cutover:
                self._awaiting.subtract((hold.source, hold.destination))
            self._outstanding[hold.destination, hold.node] -= hold.outstanding_bytes
            for name in (hold.source, hold.destination):
                for counter in (self._active, self._awaiting):
                    if not counter[name]:
                        del counter[name]
            if not self._outstanding[hold.destination, hold.node]:
                del self._outstanding[hold.destination, hold.node]
        return hold

    def holds(self, uid: str) -> bool:
        """Whether the migration counts as active."""
        return uid in self._holds

    def active(self, domain: str, *, most_awaiting: int) -> int:
        """Return how many places of a storage domain are taken.

        Up to `most_awaiting` migrations that wait for their cutover take none.
        """
        return self._active[domain] - min(self._awaiting[domain], most_awaiting)

    def outstanding_bytes(self, domain: str, node: str, *, but: str = "") -> int:
        """What the active migrations, one left out, have yet to write to a domain on a node."""
        own = self._holds.get(but)
        mine = own.outstanding_bytes if own is not None and (own.destination, own.node) == (domain, node) else 0
        return self._outstanding[domain, node] - mine
