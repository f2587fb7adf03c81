"""What the controller keeps of the objects that it reads: what its decisions need, and no more."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from diskmigration.api import names
from diskmigration.api.disk_migration import DiskMigrationSpec, DiskMigrationStatus, read_status
from diskmigration.api.model import ObjectMeta
from diskmigration.api.storage_domain import StorageDomain, StorageDomainSpec, StorageDomainStatus

_METADATA_READ = (
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
)
_STATUS_READ = (
    "observedGeneration",
    "nodeName",
    "phase",
    "conditions",
    "startTime",
    "completionTime",
    "queuePosition",
    "estimate",
    "allocatedBytes",
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One DiskMigration as last seen. `spec` is None where it cannot be read, and `spec_error` says why."""

    metadata: ObjectMeta
    spec: DiskMigrationSpec | None
    spec_error: str
    status: DiskMigrationStatus

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def uid(self) -> str:
        """Unlike the name, never used again."""
        return self.metadata.uid

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status.phase is not None and self.status.phase.is_final

    @property
    def is_delegated(self) -> bool:
        """Whether a node's agent has it."""
        return bool(self.status.node_name)

    @property
    def was_accepted(self) -> bool:
        """Whether it once could run, or had only to wait for another migration of its disk: it is not refused for good.

        The status keeps its sides from then on, also while it is suspended.
        """
        return self.status.source is not None or self.status.start_time is not None

    @property
    def is_deleting(self) -> bool:
        """Whether somebody asked for its deletion."""
        return self.metadata.deletion_timestamp is not None

    @property
    def has_finalizer(self) -> bool:
        """Whether its deletion waits for this operator."""
        return names.FINALIZER in self.metadata.finalizers

    @property
    def created(self) -> datetime:
        """When; the server always says."""
        if self.metadata.creation_timestamp is None:
            raise ValueError(f"{self.key} has no creationTimestamp")
        return self.metadata.creation_timestamp


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """A StorageDomain as last seen; `domain` is None where its spec cannot be read, and `error` says why."""

    metadata: ObjectMeta
    domain: StorageDomain | None
    error: str
    status: StorageDomainStatus


def read_metadata(body: Mapping[str, Any]) -> ObjectMeta:
    """The metadata without labels and managed fields, which nothing here reads."""
    metadata = body["metadata"]
    return ObjectMeta.from_wire({name: metadata[name] for name in _METADATA_READ if name in metadata})


def read_migration(body: Mapping[str, Any]) -> Migration:
    """Reads an object as the API server sends it. A spec that the schema let pass may still be unreadable."""
    spec: DiskMigrationSpec | None = None
    spec_error = ""
    try:
        spec = DiskMigrationSpec.from_wire(body.get("spec") or {})
    except ValidationError as error:
        spec_error = _told(error)
    return Migration(read_metadata(body), spec, spec_error, _read_status(body.get("status") or {}))


def read_domain(body: Mapping[str, Any]) -> DomainRecord:
    """Reads a StorageDomain as the API server sends it."""
    metadata = read_metadata(body)
    try:
        status = StorageDomainStatus.from_wire(body.get("status") or {})
    except ValidationError:
        status = StorageDomainStatus()  # made anew by the next look
    try:
        spec = StorageDomainSpec.from_wire(body.get("spec") or {})
    except ValidationError as error:
        return DomainRecord(metadata, None, _told(error), status)
    return DomainRecord(metadata, StorageDomain(metadata=metadata, spec=spec), "", status)


def _told(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(['spec', *map(str, problem['loc'])])}: {problem['msg']}" for problem in error.errors())


def _read_status(status: Mapping[str, Any]) -> DiskMigrationStatus:
    wanted = {name: status[name] for name in _STATUS_READ if name in status}
    # Of the two sides only the domains count here; the volumes are the agent's and many.
    for side in ("source", "destination"):
        if isinstance(status.get(side), dict):
            wanted[side] = {
                name: value for name, value in status[side].items() if name in ("storageDomainName", "type")
            }
    return read_status(wanted)
