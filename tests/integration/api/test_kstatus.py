"""What kstatus, and with it Flux and Helm, makes of the project's objects: each kind in each of its states.

The API server fills in what a new object has, the project's own code makes the statuses, and kstatus is the library.
"""

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from diskmigration.agent.migration import status as agent_statuses
from diskmigration.agent.migration.progress import Meter
from diskmigration.api import names
from diskmigration.api.conditions import condition
from diskmigration.api.disk_migration import DiskMigration, DiskMigrationStatus, Phase, Side
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.libvirt_host import LibvirtHostStatus, NodeStorageDomain
from diskmigration.api.model import Model
from diskmigration.api.storage_domain import StorageDomainStatus, StorageType
from diskmigration.controller import migration_status, storage_domain_status, unreachable
from diskmigration.controller.placement_outcome import Placement, Refusal
from diskmigration.controller.records import Migration, read_domain, read_migration
from diskmigration.controller.storage_domain_status import DomainUse
from diskmigration.controller.throughput import Throughput
from testbed.binaries import kstatus_binary
from tests.integration.api.conftest import Apply
from tests.integration.api.manifests import API_VERSION, domain, migration
from tests.integration.user import User
from tests.unit.agent.builders import EPOCH, journal
from tests.unit.controller.builders import report

IN_PROGRESS, CURRENT, FAILED, TERMINATING = "InProgress", "Current", "Failed", "Terminating"
JsonObject = dict[str, Any]

PLACE = Placement(
    "n1",
    ("k",),
    Side(storage_domain_name="nfs", type=StorageType.FILE),
    Side(storage_domain_name="san", type=StorageType.BLOCK),
    1,
)
REFUSAL = Refusal(Reason.VIRTUAL_MACHINE_NOT_FOUND, "There is no such VM.")
TROUBLE = MigrationError(Reason.IMPOSSIBLE_ALLOCATION, "Look at it.")
LATER = EPOCH + timedelta(hours=1)


def verdict(*objects: JsonObject) -> list[str]:
    """What kstatus says of each."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    completed = subprocess.run(
        [kstatus_binary()], input=json.dumps(listed), capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line)["status"] for line in completed.stdout.splitlines()]


Write = Callable[[JsonObject, Model], JsonObject]


@pytest.fixture
def write(user: User) -> Write:
    """Writes the status of an object, and returns it as it is then."""

    def act(body: JsonObject, status: Model) -> JsonObject:
        metadata = body["metadata"]
        plural = {"DiskMigration": names.DISK_MIGRATIONS, "StorageDomain": names.STORAGE_DOMAINS}.get(
            body["kind"], names.LIBVIRT_HOSTS
        )
        wire = migration_status.to_wire(status) if isinstance(status, DiskMigrationStatus) else status.to_wire()
        return user.patch(
            plural, metadata["name"], {"status": wire}, namespace=metadata.get("namespace", ""), subresource="status"
        )

    return act


def named() -> str:
    return f"kstatus-{uuid.uuid4().hex[:8]}"


BY_OPERATOR: Mapping[str, tuple[Callable[[Migration, datetime], DiskMigrationStatus], str]] = {
    "suspended": (lambda found, now: migration_status.held(found, PLACE, Throughput(), now), IN_PROGRESS),
    "suspended and refused": (lambda found, now: migration_status.held(found, REFUSAL, Throughput(), now), IN_PROGRESS),
    "refused": (lambda found, now: migration_status.refused(found, REFUSAL, now), IN_PROGRESS),
    "waiting": (
        lambda found, now: migration_status.waiting(
            found, Refusal(Reason.DISK_BUSY, "Busy.", sides=(PLACE.source, PLACE.destination)), now
        ),
        IN_PROGRESS,
    ),
    "queued": (lambda found, now: migration_status.queued(found, PLACE, 3, now), IN_PROGRESS),
    "scheduled": (lambda found, now: migration_status.scheduled(found, PLACE, now), IN_PROGRESS),
    "failed": (lambda found, now: migration_status.failed(found, Reason.DISK_NOT_FOUND, "No such disk.", now), FAILED),
    "too late": (lambda found, now: migration_status.failed(found, Reason.DEADLINE_EXCEEDED, "Late.", now), FAILED),
    "cancelled": (migration_status.cancelled, FAILED),
}


def test_new_objects_that_nobody_has_looked_at_are_in_progress(apply: Apply) -> None:
    new = [
        apply(migration(named())),
        apply(migration(named(), suspend=True)),
        apply(domain(named(), file={"path": "/srv/a"})),
        apply({"apiVersion": API_VERSION, "kind": "LibvirtHost", "metadata": {"name": named()}}),
    ]
    assert verdict(*new) == [IN_PROGRESS] * len(new)


@pytest.mark.parametrize("state", BY_OPERATOR)
def test_a_migration_that_the_operator_has(apply: Apply, write: Write, state: str) -> None:
    made, expected = BY_OPERATOR[state]
    body = apply(migration(named()))
    assert verdict(write(body, made(read_migration(body), EPOCH))) == [expected]


Agent = Callable[[DiskMigrationStatus, DiskMigration], DiskMigrationStatus]


def under_way(phase: Phase, *, stalled: MigrationError | None = None) -> Agent:
    return lambda before, found: agent_statuses.under_way(
        before,
        found,
        phase=phase,
        journal=journal(),
        figures={},
        meter=Meter(),
        message="",
        now=EPOCH,
        stalled=stalled,
    )


def ended(phase: Phase, reason: Reason) -> Agent:
    return lambda before, found: agent_statuses.ended(
        before, found, phase=phase, reason=reason, message="Because.", now=EPOCH
    )


BY_AGENT: Mapping[str, tuple[Agent, str]] = {
    **{
        phase.value: (under_way(phase), IN_PROGRESS)
        for phase in Phase
        if not phase.is_final and not phase.belongs_to_operator
    },
    "not begun": (
        lambda before, found: agent_statuses.not_begun(
            before, found, phase=Phase.SCHEDULED, message="It waits.", now=EPOCH
        ),
        IN_PROGRESS,
    ),
    "waiting for somebody": (under_way(Phase.REPLICATING, stalled=TROUBLE), FAILED),
    "succeeded": (ended(Phase.SUCCEEDED, Reason.MIGRATED), CURRENT),
    "nothing to do": (ended(Phase.SUCCEEDED, Reason.ALREADY_AT_DESTINATION), CURRENT),
    "failed": (ended(Phase.FAILED, Reason.COPY_FAILED), FAILED),
    "cancelled": (ended(Phase.CANCELLED, Reason.CANCELLED), FAILED),
}


def handed_over(apply: Apply, write: Write, **spec: Any) -> JsonObject:
    body = apply(migration(named(), **spec))
    return write(body, migration_status.scheduled(read_migration(body), PLACE, EPOCH))


@pytest.mark.parametrize("state", BY_AGENT)
def test_a_migration_that_an_agent_has(apply: Apply, write: Write, state: str) -> None:
    made, expected = BY_AGENT[state]
    found = DiskMigration.from_wire(handed_over(apply, write))
    assert verdict(write(handed_over(apply, write), made(found.status, found))) == [expected]


def merged(body: JsonObject, part: DiskMigrationStatus) -> DiskMigrationStatus:
    """The status once the operator has applied its part of it."""
    before = DiskMigrationStatus.from_wire(body["status"])
    theirs = {each.type: each for each in before.conditions} | {each.type: each for each in part.conditions}
    return before.model_copy(update={"conditions": tuple(theirs.values())})


@pytest.mark.parametrize("is_stalled", [False, True])
@pytest.mark.parametrize(("seconds", "expected"), [(None, IN_PROGRESS), (60, FAILED)])
def test_a_migration_whose_agent_is_away(
    apply: Apply, write: Write, seconds: int | None, expected: str, *, is_stalled: bool
) -> None:
    body = handed_over(apply, write, activeDeadlineSeconds=seconds)
    found = DiskMigration.from_wire(body)
    left = write(body, under_way(Phase.REPLICATING, stalled=TROUBLE if is_stalled else None)(found.status, found))
    told = write(left, merged(left, unreachable.status(read_migration(left), LATER)))
    # What somebody has to mend stays so: nobody waits for it.
    assert verdict(told) == [FAILED if is_stalled else expected]


@pytest.mark.parametrize("state", ["replicating", "succeeded", "failed"])
def test_a_migration_whose_spec_is_newer_than_its_status(apply: Apply, write: Write, user: User, state: str) -> None:
    body = handed_over(apply, write)
    found = DiskMigration.from_wire(body)
    states = {"replicating": under_way(Phase.REPLICATING), "succeeded": BY_AGENT["succeeded"][0]}
    written = write(body, states.get(state, BY_AGENT["failed"][0])(found.status, found))
    metadata = written["metadata"]
    changed = user.patch(
        names.DISK_MIGRATIONS,
        metadata["name"],
        {"spec": {"ttlSecondsAfterFinished": 3600}},
        namespace=metadata["namespace"],
    )
    assert verdict(changed) == [IN_PROGRESS]


@pytest.fixture
def held(apply: Apply, user: User) -> Iterator[JsonObject]:
    """A migration that is deleted and waits for its clean-up."""
    body = apply({**(made := migration(named())), "metadata": {**made["metadata"], "finalizers": [names.FINALIZER]}})
    metadata = body["metadata"]
    user.delete(names.DISK_MIGRATIONS, metadata["name"], metadata["namespace"])
    yield metadata
    nothing: JsonObject = {"metadata": {"finalizers": None}}
    user.patch(names.DISK_MIGRATIONS, metadata["name"], nothing, namespace=metadata["namespace"])


def test_a_migration_that_is_deleted(user: User, held: JsonObject) -> None:
    same: JsonObject = {"metadata": {"labels": {"looked-at": "true"}}}
    body = user.patch(names.DISK_MIGRATIONS, held["name"], same, namespace=held["namespace"])
    assert verdict(body) == [TERMINATING]


NODE_READY = NodeStorageDomain.from_wire(report("a"))
NODE_NOT_READY = NodeStorageDomain.from_wire(report("a", ready=False, reason="no mount"))
DOMAINS: Mapping[str, tuple[DomainUse, str]] = {
    "no node": (DomainUse(), IN_PROGRESS),
    "no node ready": (DomainUse({"n1": NODE_NOT_READY}), IN_PROGRESS),
    "shared without locks": (DomainUse({"n1": NODE_READY}, {"n1": ["n1", "n2"]}), IN_PROGRESS),
    "ready": (DomainUse({"n1": NODE_READY}), CURRENT),
    "ready on one node of two": (DomainUse({"n1": NODE_READY, "n2": NODE_NOT_READY}), CURRENT),
}


def status_of(body: JsonObject, use: DomainUse) -> StorageDomainStatus:
    return storage_domain_status.status_of(read_domain(body), use, EPOCH)


@pytest.mark.parametrize("state", DOMAINS)
def test_a_storage_domain(apply: Apply, write: Write, state: str) -> None:
    use, expected = DOMAINS[state]
    body = apply(domain(named(), file={"path": "/srv/a"}))
    assert verdict(write(body, status_of(body, use))) == [expected]


def test_a_storage_domain_that_cannot_be_read(apply: Apply, write: Write) -> None:
    body = apply(domain(named(), loop={"path": "/srv/a"}, thinProvisioning={"chunkSize": "1048576.5"}))
    assert verdict(write(body, status_of(body, DomainUse({"n1": NODE_READY})))) == [FAILED]


def test_a_storage_domain_whose_spec_is_newer_than_its_status(apply: Apply, write: Write) -> None:
    manifest = domain(named(), file={"path": "/srv/a"})
    body = apply(manifest)
    assert verdict(write(body, status_of(body, DomainUse({"n1": NODE_READY})))) == [CURRENT]
    changed = apply({**manifest, "spec": {**manifest["spec"], "maxConcurrentMigrations": 9}})
    assert verdict(changed) == [IN_PROGRESS]


@pytest.mark.parametrize(("answers", "expected"), [(True, CURRENT), (False, IN_PROGRESS)])
def test_a_libvirt_host(apply: Apply, write: Write, expected: str, *, answers: bool) -> None:
    body = apply({"apiVersion": API_VERSION, "kind": "LibvirtHost", "metadata": {"name": named()}})
    generation = body["metadata"]["generation"]
    ready = condition((), "Ready", answers, reason="Because", generation=None, now=EPOCH)
    status = LibvirtHostStatus(observed_generation=generation, conditions=(ready,))
    assert verdict(write(body, status)) == [expected]
