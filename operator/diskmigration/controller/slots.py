"""Who uses what right now: places in storage domains, space promised at destinations, and disks being moved.

Each change costs constant time. A migration is known by its uid.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from diskmigration.api.storage_domain import StorageDomain


@dataclass(frozen=True, slots=True)
class Hold:
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


class Slots:
    """The active migrations of each storage domain, over all nodes."""

    def __init__(self) -> None:
        """Nothing is active."""
        self._holds: dict[str, Hold] = {}
        self._active: Counter[str] = Counter()
        self._awaiting: Counter[str] = Counter()
        self._outstanding: Counter[tuple[str, str]] = Counter()

    def hold(self, uid: str, hold: Hold) -> None:
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

    def release(self, uid: str) -> Hold | None:
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


@dataclass(frozen=True, order=True, slots=True)
class Rank:
    """Who comes first to a disk: one that an agent has, then the older one."""

    waits: bool
    created: datetime
    uid: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A migration's claim on a disk; `key` names it in messages."""

    rank: Rank
    key: str


class DiskClaims:
    """One migration a disk: the rest is refused until it has ended."""

    def __init__(self) -> None:
        """No disk is claimed."""
        self._claims: defaultdict[str, dict[str, Claim]] = defaultdict(dict)
        self._disks_of: dict[str, tuple[str, ...]] = {}

    def claim(self, uid: str, disk_keys: tuple[str, ...], claim: Claim) -> set[str]:
        """Makes or renews a claim; the disk keys whose order of claims it changed."""
        if self._disks_of.get(uid) == disk_keys and all(self._claims[key].get(uid) == claim for key in disk_keys):
            return set()
        touched = self.withdraw(uid) | set(disk_keys)
        self._disks_of[uid] = disk_keys
        for key in disk_keys:
            self._claims[key][uid] = claim
        return touched

    def disks_of(self, uid: str) -> tuple[str, ...]:
        """Return the keys of the disk that a migration claims."""
        return self._disks_of.get(uid, ())

    def secure(self, uid: str) -> bool:
        """Puts a migration's claims before all that wait. False if another one has the disk: then nothing changes."""
        claims = [self._claims[key][uid] for key in self._disks_of.get(uid, ())]
        if any(self.blocker(self._disks_of[uid], claim.rank) is not None for claim in claims):
            return False
        for key, claim in zip(self._disks_of.get(uid, ()), claims, strict=True):
            self._claims[key][uid] = replace(claim, rank=replace(claim.rank, waits=False))
        return True

    def withdraw(self, uid: str) -> set[str]:
        """Ends a migration's claims; the disk keys that it had claimed."""
        keys = self._disks_of.pop(uid, ())
        for key in keys:
            self._claims[key].pop(uid, None)
            if not self._claims[key]:
                del self._claims[key]
        return set(keys)

    def blocker(self, disk_keys: Iterable[str], rank: Rank) -> str | None:
        """The migration that comes before this rank on any of the keys, or None."""
        ahead = [claim for key in disk_keys for claim in self._claims.get(key, {}).values() if claim.rank < rank]
        return min(ahead, key=lambda claim: claim.rank).key if ahead else None
