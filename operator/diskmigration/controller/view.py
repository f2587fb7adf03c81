"""The DiskMigrations as last seen, by events, by lists and by the answers to our own writes.

These overtake each other, so what is older than what is known is passed over. resourceVersions are compared as
numbers, which the API promises since Kubernetes 1.35 (KEP-5504) and etcd gave always.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diskmigration.api.model import ObjectMeta
from diskmigration.controller.records import Migration, read_migration

REMEMBERED_GONE = 20_000
_NEVER_AGAIN = float("inf")


@dataclass(frozen=True, slots=True)
class Finished:
    """What is kept of one that has ended, for as long as there is something to do: its finalizer, its TTL."""

    metadata: ObjectMeta
    completed: datetime | None
    ttl_seconds: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """What an observation changed: the object's key, the uid it has now or had last, and one that it replaced."""

    key: str
    uid: str
    replaced_uid: str = ""


class MigrationView:
    """Not thread-safe: one event loop owns it."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self.active: dict[str, Migration] = {}
        self.finished: dict[str, Finished] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()

    def uid_of(self, key: str) -> str | None:
        """The uid of the object that is kept under a key, or None."""
        if (migration := self.active.get(key)) is not None:
            return migration.uid
        finished = self.finished.get(key)
        return finished.metadata.uid if finished is not None else None

    def keys(self) -> list[str]:
        """Every key that is kept."""
        return [*self.active, *self.finished]

    def observe(self, body: Mapping[str, Any]) -> Change | None:
        """Takes in an object; None if as much or more is known of it."""
        metadata = body["metadata"]
        key, uid = f"{metadata['namespace']}/{metadata['name']}", metadata["uid"]
        version = _number(metadata["resourceVersion"])
        if version <= self._gone.get(uid, -1):
            return None
        kept = self._metadata_of(key)
        if kept is not None and version <= _number(kept.resource_version):
            return None
        migration = read_migration(body)
        self.active.pop(key, None)
        self.finished.pop(key, None)
        if not migration.is_final:
            self.active[key] = migration
        elif (finished := _finished(migration)) is not None:
            self.finished[key] = finished
        else:
            self._remember_gone(uid, version)
        replaced = kept.uid if kept is not None and kept.uid != uid else ""
        return Change(key, uid, replaced)

    def forget(self, key: str, uid: str) -> Change | None:
        """Takes in that an object is deleted; None if another one is kept under its key, or none."""
        self._remember_gone(uid, _NEVER_AGAIN)
        kept = self._metadata_of(key)
        if kept is None or kept.uid != uid:
            return None
        self.active.pop(key, None)
        self.finished.pop(key, None)
        return Change(key, uid)

    def _metadata_of(self, key: str) -> ObjectMeta | None:
        if (migration := self.active.get(key)) is not None:
            return migration.metadata
        finished = self.finished.get(key)
        return finished.metadata if finished is not None else None

    def _remember_gone(self, uid: str, version: float) -> None:
        self._gone[uid] = max(version, self._gone.get(uid, -1))
        self._gone.move_to_end(uid)
        while len(self._gone) > REMEMBERED_GONE:
            self._gone.popitem(last=False)


def _finished(migration: Migration) -> Finished | None:
    ttl = migration.spec.ttl_seconds_after_finished if migration.spec is not None else None
    if ttl is None and not migration.has_finalizer:
        return None
    return Finished(migration.metadata, migration.status.completion_time, ttl)


def _number(resource_version: str) -> float:
    return float(resource_version) if resource_version.isdecimal() else _NEVER_AGAIN
