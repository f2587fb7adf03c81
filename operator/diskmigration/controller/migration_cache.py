"""The DiskMigrations as last seen: those that are active, and those that have ended and still have something to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from diskmigration.api.model import ObjectMeta
from diskmigration.controller.freshness import Freshness, version_of
from diskmigration.controller.records import Migration, read_migration


@dataclass(frozen=True, slots=True)
class Finished:
    """What is kept of one that has ended, for as long as there is something to do: its finalizer, its TTL.

    `is_observed` tells that the status speaks of the spec as it is, which may be changed after the end too.
    """

    metadata: ObjectMeta
    completed: datetime | None
    ttl_seconds: int | None
    is_observed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What an observation changed: the object's key, the uid it has now or had last, and one that it replaced."""

    key: str
    uid: str
    replaced_uid: str = ""


class MigrationCache:
    """Not thread-safe: one event loop owns it."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self.active: dict[str, Migration] = {}
        self.finished: dict[str, Finished] = {}
        self._freshness = Freshness()

    def uid_of(self, key: str) -> str | None:
        """The uid of the object that is kept under a key, or None."""
        if (migration := self.active.get(key)) is not None:
            return migration.uid
        finished = self.finished.get(key)
        return finished.metadata.uid if finished is not None else None

    def keys(self) -> list[str]:
        """Every key that is kept."""
        return [*self.active, *self.finished]

    def version_of(self, key: str) -> dict[str, float]:
        """Return the newest known version of the object that is kept under a key, by its uid."""
        kept = self._metadata_of(key)
        return {kept.uid: version_of(kept)} if kept is not None else {}

    def versions(self) -> dict[str, float]:
        """Return the newest known version of every object, by uid."""
        kept = [one.metadata for one in self.active.values()] + [one.metadata for one in self.finished.values()]
        return self._freshness.versions() | {one.uid: version_of(one) for one in kept}

    def observe(self, body: Mapping[str, Any]) -> Change | None:
        """Takes in an object; None if as much or more is known of it."""
        metadata = body["metadata"]
        key, uid = f"{metadata['namespace']}/{metadata['name']}", metadata["uid"]
        kept = self._metadata_of(key)
        if not self._freshness.is_news(kept, metadata):
            return None
        migration = read_migration(body)
        self.active.pop(key, None)
        self.finished.pop(key, None)
        if not migration.is_final:
            self.active[key] = migration
        elif (finished := _finished(migration)) is not None:
            self.finished[key] = finished
        else:
            self._freshness.let_go(uid, metadata["resourceVersion"])
        replaced = kept.uid if kept is not None and kept.uid != uid else ""
        return Change(key, uid, replaced)

    def forget(self, key: str, uid: str) -> Change | None:
        """Takes in that an object is deleted; None if another one is kept under its key, or none."""
        self._freshness.bury(uid)
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


def _finished(migration: Migration) -> Finished | None:
    ttl = migration.spec.ttl_seconds_after_finished if migration.spec is not None else None
    is_observed = migration.status.observed_generation == migration.metadata.generation
    if ttl is None and is_observed and not migration.has_finalizer:
        return None
    return Finished(migration.metadata, migration.status.completion_time, ttl, is_observed)
