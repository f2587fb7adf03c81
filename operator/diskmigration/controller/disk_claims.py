"""Who may move a disk: one migration at a time, and who comes first. A migration is known by its uid."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime


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
