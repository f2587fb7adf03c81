"""A migration, its journal and its VM's disk, with only what a test cares about said."""

from datetime import UTC, datetime
from typing import Any

from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.hypervisor.domain_xml import Layer, Mirror
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.api.disk_migration import DiskMigration, VolumeFormat
from diskmigration.api.storage_domain import StorageDomain, StorageType

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 2**20
GIB = 2**30
UID = "8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11"


def migration(*, spec: dict[str, Any] | None = None, **metadata: Any) -> DiskMigration:
    return DiskMigration.from_wire(
        {
            "metadata": {"name": "web-1", "namespace": "vms", "uid": UID, "generation": 1, **metadata},
            "spec": {
                "virtualMachine": {"name": "web-1"},
                "disk": "vda",
                "destination": {"storageDomainName": "san"},
                **(spec or {}),
            },
        }
    )


def storage_domain(name: str, kind: str = "file", **spec: Any) -> StorageDomain:
    return StorageDomain.from_wire({"metadata": {"name": name}, "spec": {kind: {"path": f"/srv/{name}"}, **spec}})


def volume(path: str, *, image_format: str = "qcow2", block: bool = False, capacity: int = 10 * GIB) -> JournalVolume:
    return JournalVolume(
        name=path.rsplit("/", 1)[-1],
        path=path,
        format=VolumeFormat(image_format),
        type=StorageType.BLOCK if block else StorageType.FILE,
        capacity_bytes=capacity,
    )


def journal(*, strategy: str = "Snapshot", length: int = 1, flatten: bool = False, **changes: Any) -> Journal:
    """The journal of a move from a file domain to a block domain."""
    backing_chain = "Flatten" if flatten else "Preserve"
    takes_snapshot = strategy == "Snapshot"
    found = Journal(
        migration=migration(spec={"strategy": strategy, "backingChain": backing_chain}),
        attempt=1,
        source_domain=storage_domain("nfs"),
        destination_domain=storage_domain("san", "loop"),
        source=tuple(volume(f"/srv/nfs/layer-{position}") for position in range(length)),
        snapshot=volume(f"/srv/nfs/dm-{UID}-snapshot") if takes_snapshot else None,
        destination=tuple(
            volume(f"/srv/san/dev/dm-{UID}-{position}", block=True) for position in range(1 if flatten else length)
        ),
        overlay=volume(f"/srv/san/dev/dm-{UID}-overlay", block=True) if takes_snapshot else None,
    )
    return found.model_copy(update=changes)


def copy_job(path: str, *, ready: bool = False, current: int = 0, end: int = GIB, state: str | None = None) -> BlockJob:
    """A block copy to that path; `ready` has both libvirt's word and equal offsets."""
    layer = Layer(type="block", path=path, format="qcow2", index=7)
    word = state if state is not None else ("yes" if ready else "")
    return BlockJob("copy", Mirror(layer=layer, job="copy", ready=word), end if ready else current, end)


def commit_job(path: str, *, ready: bool = False) -> BlockJob:
    layer = Layer(type="file", path=path, format="qcow2", index=1)
    return BlockJob("active-commit", Mirror(layer=layer, job="active-commit", ready="yes" if ready else ""), 0, GIB)


PULL_JOB = BlockJob("pull", None, 0, GIB)
LOST_COPY_JOB = BlockJob("copy", None, GIB, GIB)
"""What a libvirtd knows that was killed when it had just started a copy."""
