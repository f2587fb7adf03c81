"""Find the VM of a migration, whatever was done to its name or its definition since the migration began."""

from collections.abc import Callable
from functools import partial

from diskmigration.agent.hypervisor.domain import Domain, every_domain, find
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration import last_writes
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.node_services import NodeServices
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.disk_migration import DiskMigration
from diskmigration.api.errors import MigrationError, Reason


def find_vm(
    node: NodeServices, migration: DiskMigration, *, has_begun: bool, settled_attempt: int, keep_on: Callable[[], bool]
) -> tuple[Domain, Journal | None]:
    """Return the migration's VM, and its journal if it has begun.

    A VM that was renamed is found by its journal. `has_begun` tells that the status has an attempt that has not ended.

    Raises:
        StoppedError: `keep_on` said no.
        MigrationError: VirtualMachineNotFound; ForeignChange, where volumes of the migration are there, and no VM has
            its journal.
    """
    spec = migration.spec
    obstacle: MigrationError | None = None
    domain, journal = None, None
    try:
        domain = find(node.connection, name=spec.virtual_machine.name, uuid=spec.virtual_machine.uuid)
        journal = _own_journal(domain, migration)
    except MigrationError as error:
        if error.reason is not Reason.VIRTUAL_MACHINE_NOT_FOUND:
            raise
        obstacle = error
    if journal is None and (has_begun or domain is None):
        for other in every_domain(node.connection):
            try:
                found = _own_journal(other, migration)
            except DomainGoneError:
                continue
            if found is not None:
                return other, found
    if journal is None and has_begun:
        what = obstacle.message if obstacle is not None else "The VM has no journal of the migration any more."
        require_nothing_left(migration, node.domains.all(), settled_attempt=settled_attempt, what=what, keep_on=keep_on)
    if domain is None:
        assert obstacle is not None  # noqa: S101 - one of the two is there
        raise obstacle
    return domain, journal


def require_nothing_left(
    migration: DiskMigration,
    domains: tuple[OpenDomain, ...],
    *,
    settled_attempt: int,
    what: str,
    keep_on: Callable[[], bool],
) -> None:
    """Raise ForeignChange if volumes of the migration are there that no attempt has settled; they are kept.

    `what` is a sentence that says what is wrong with the VM.
    """
    uid = migration.metadata.uid
    found = last_writes.own_volumes(uid, domains)
    left = tuple(volume for volume in found if volume.own_name.attempt > settled_attempt)
    if not left:
        return
    last_writes.keep(left)
    holds_data = partial(last_writes.holds_data, keep_on=keep_on)
    newest = last_writes.newest_by_status(migration.status, left, holds_data)
    raise MigrationError(
        Reason.FOREIGN_CHANGE,
        f"{what} The migration had begun, and its journal is gone: the VM's definition was replaced by another one, or "
        "the VM has left this node. "
        f"{last_writes.advice(left, newest)}",
    )


def _own_journal(domain: Domain, migration: DiskMigration) -> Journal | None:
    journal = journals.read(domain, migration.spec.disk)
    return journal if journal is not None and journal.uid == migration.metadata.uid else None
