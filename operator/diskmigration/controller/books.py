"""The books: all that is known and promised, kept whole through every observation. In memory only, no requests.

Who observes something calls `observe_…`; the books wake the objects that it concerns, and give each place that comes
free to the one whose turn it is. A place is held from that moment on, long before its migration's node is written: two
migrations can never be promised the same one, however late the API server's events are.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from diskmigration.api.disk_migration import DiskMigrationSpec
from diskmigration.api.hypervisor import Hypervisor
from diskmigration.controller import topics, validation
from diskmigration.controller.freshness import Freshness
from diskmigration.controller.inventory import Inventory
from diskmigration.controller.outcomes import Outcome, Placement
from diskmigration.controller.placement import Surroundings, disk_keys, find_disk, needed_bytes, place
from diskmigration.controller.queueing import FairQueue, Lane, Ticket, is_position_worth_writing
from diskmigration.controller.records import Migration, read_domain, read_metadata
from diskmigration.controller.slots import Claim, DiskClaims, Hold, Rank, Slots
from diskmigration.controller.topics import Topic
from diskmigration.controller.view import Change, MigrationView
from diskmigration.controller.waiters import Waiters

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wake:
    """Whom to tell that an object is to be looked at: a migration by its key, a storage domain by its name."""

    migration: Callable[[str], None]
    domain: Callable[[str], None]


class Books:
    """Not thread-safe: one event loop owns it."""

    def __init__(self, *, system_namespace: str, wake: Wake) -> None:
        """Nothing is known, and nothing is granted before `open`."""
        self.view = MigrationView()
        self.inventory = Inventory()
        self._freshness = Freshness()
        self._system_namespace = system_namespace
        self._wake = wake
        self._queue = FairQueue()
        self._slots = Slots()
        self._claims = DiskClaims()
        self._waiters = Waiters()
        self._grants: dict[str, Lane] = {}
        self._positions: dict[str, int] = {}
        self._is_open = False

    # What is observed

    def observe_migration(self, body: Mapping[str, Any]) -> None:
        """Takes in a DiskMigration as an event, a list or an answer has it."""
        if (change := self.view.observe(body)) is not None:
            self._take_in(change)

    def forget_migration(self, key: str, uid: str) -> None:
        """Takes in that a DiskMigration is deleted."""
        if (change := self.view.forget(key, uid)) is not None:
            self._take_in(change)

    def observe_hypervisor(self, body: Mapping[str, Any]) -> None:
        """Takes in a Hypervisor. One that cannot be read leaves what was known."""
        metadata = read_metadata(body)
        if not self._freshness.is_news(self.inventory.hypervisor_metadata(metadata.name), body["metadata"]):
            return
        try:
            hypervisor = Hypervisor.from_wire({"metadata": metadata, "status": body.get("status") or {}})
        except ValidationError as error:
            _log.warning("a Hypervisor cannot be read", extra={"hypervisor": metadata.name, "error": str(error)})
            return
        self._touch(self.inventory.put_hypervisor(hypervisor))

    def forget_hypervisor(self, node: str) -> None:
        """Takes in that a Hypervisor is deleted."""
        if (kept := self.inventory.hypervisor_metadata(node)) is not None:
            self._freshness.bury(kept.uid)
            self._touch(self.inventory.remove_hypervisor(node))

    def observe_domain(self, body: Mapping[str, Any]) -> None:
        """Takes in a StorageDomain."""
        kept = self.inventory.domain(body["metadata"]["name"])
        if self._freshness.is_news(kept.metadata if kept is not None else None, body["metadata"]):
            self._touch(self.inventory.put_domain(read_domain(body)))
            self._grant()

    def forget_domain(self, name: str) -> None:
        """Takes in that a StorageDomain is deleted."""
        if (kept := self.inventory.domain(name)) is not None:
            self._freshness.bury(kept.metadata.uid)
            self._touch(self.inventory.remove_domain(name))

    def set_live(self, nodes: frozenset[str]) -> None:
        """Takes in which nodes' agents are alive."""
        self._touch(self.inventory.set_live(nodes))

    def open(self) -> None:
        """Begins to grant places. Everything must have been observed once, and who may wait is queued by age."""
        for migration in sorted(self.view.active.values(), key=lambda one: (one.created, one.uid)):
            if migration.is_delegated:
                self._account(migration)  # again, as its VM may have been observed after it
            elif _may_wait(migration) and isinstance(placement := self.judge(migration), Placement):
                self._claim(migration, placement.disk_keys)
                self._queue.add(_ticket(migration, placement))
        self._is_open = True
        self._grant()

    # What is decided

    def judge(self, migration: Migration) -> Outcome:
        """Where the migration can run as things are, or why not. It is woken when that may have changed.

        Raises:
            ValueError: its spec cannot be read.
        """
        if migration.spec is None:
            raise ValueError(f"{migration.key} has no readable spec")
        rank = self._rank(migration)
        around = Surroundings(
            inventory=self.inventory,
            system_namespace=self._system_namespace,
            blocked_by=lambda keys: self._claims.blocker(keys, rank),
            reserved_bytes=lambda domain, node: self._slots.outstanding_bytes(domain, node, but=migration.uid),
        )
        outcome = place(migration.metadata.namespace, migration.spec, around)
        self._waiters.wait(migration.key, outcome.topics)
        return outcome

    def ask_for_place(self, migration: Migration, placement: Placement) -> bool:
        """Queues the migration, unless its turn has come: then it is True, and the place is held for it.

        Who is told True writes the node, or gives the place back with `withdraw`.
        """
        self._claim(migration, placement.disk_keys)
        lane = _lane(placement)
        granted = self._grants.get(migration.uid)
        if granted is not None and granted != lane:
            self._give_back(migration.uid)
        if migration.uid not in self._grants:
            self._queue.add(_ticket(migration, placement))
            self._grant()
        if migration.uid not in self._grants:
            return False
        self._slots.hold(migration.uid, Hold(*lane, placement.node, placement.needed_bytes))
        return True

    def withdraw(self, migration: Migration) -> None:
        """Takes an undelegated migration out of the queue, with its claims and the place that it was promised."""
        self._leave(migration.uid)
        self._grant()

    def position(self, migration: Migration) -> int:
        """The position to publish: what is published, unless it is due to be written again."""
        due = self._positions.pop(migration.uid, None)
        if due is not None:
            return due
        return migration.status.queue_position or self._queue.position(migration.uid)

    def refresh_positions(self, *, at_most: int) -> None:
        """Wakes those whose published position is too far from the truth, the nearest to the head first."""
        due = []
        for uid, position in self._queue.positions().items():
            ticket = self._queue.ticket(uid)
            migration = self.view.active.get(ticket.key) if ticket is not None else None
            if migration is not None and is_position_worth_writing(migration.status.queue_position, position):
                due.append((position, uid, migration.key))
        for position, uid, key in sorted(due)[:at_most]:
            self._positions[uid] = position
            self._wake.migration(key)

    @property
    def queue_length(self) -> int:
        """How many wait for a place."""
        return len(self._queue)

    def active_on(self, domain: str) -> int:
        """How many places of a storage domain are taken or promised."""
        return self._slots.active(domain)

    # How it is kept

    def _take_in(self, change: Change) -> None:
        if change.replaced_uid:
            self._release(change.replaced_uid, change.key)
        migration = self.view.active.get(change.key)
        if migration is None:
            self._release(change.uid, change.key)
        elif migration.is_delegated:
            self._account(migration)
        self._wake.migration(change.key)
        self._grant()

    def _account(self, migration: Migration) -> None:
        """Counts a delegated migration's places, space and disk: they are its own until it has ended."""
        uid = migration.uid
        self._queue.remove(uid)
        self._grants.pop(uid, None)
        self._positions.pop(uid, None)
        # Its deletion may have to wait for its agent.
        self._waiters.wait(migration.key, frozenset({topics.node(migration.status.node_name or "")}))
        if not self._slots.holds(uid):
            self._hold(migration)
        self._slots.progress(uid, migration.status.allocated_bytes or 0)
        self._claim(migration, self._disk_keys_of(migration))

    def _hold(self, migration: Migration) -> None:
        status, node = migration.status, migration.status.node_name or ""
        if status.source is None or status.destination is None:
            _log.warning("a delegated migration does not say its storage domains", extra={"migration": migration.key})
            return
        needed = 0
        located = self.inventory.located_on(node, migration.spec) if migration.spec is not None else None
        if migration.spec is not None and located is not None:
            disk = find_disk(located.machine, migration.spec.disk)
            needed = needed_bytes(migration.spec, disk, status.destination.type) if disk is not None else 0
        lane = (status.source.storage_domain, status.destination.storage_domain)
        self._slots.hold(migration.uid, Hold(*lane, node, needed))

    def _disk_keys_of(self, migration: Migration) -> tuple[str, ...]:
        spec, node = migration.spec, migration.status.node_name or ""
        if spec is None:
            return ()
        if (located := self.inventory.located_on(node, spec)) is not None:
            return disk_keys(located, spec.disk)
        return _disk_keys_by_spec(spec, node)

    def _rank(self, migration: Migration) -> Rank:
        """Whoever was granted a place comes before those who wait: its node may be written already."""
        waits = not migration.is_delegated and migration.uid not in self._grants
        return Rank(waits, migration.created, migration.uid)

    def _claim(self, migration: Migration, keys: tuple[str, ...]) -> None:
        claim = Claim(self._rank(migration), migration.key)
        touched = self._claims.claim(migration.uid, keys, claim)
        self._touch({topics.disk(key) for key in touched}, but=migration.key)

    def _release(self, uid: str, key: str) -> None:
        self._leave(uid)
        self._waiters.forget(key)

    def _leave(self, uid: str) -> None:
        self._queue.remove(uid)
        self._give_back(uid)
        self._positions.pop(uid, None)
        self._touch({topics.disk(key) for key in self._claims.withdraw(uid)})

    def _give_back(self, uid: str) -> None:
        self._slots.release(uid)
        self._grants.pop(uid, None)

    def _touch(self, changed: set[Topic], *, but: str = "") -> None:
        for key in self._waiters.concerned(changed):
            if key != but:
                self._wake.migration(key)
        for name in topics.domains_among(changed):
            self._wake.domain(name)

    def _grant(self) -> None:
        """Promises every free place to the one whose turn it is."""
        if not self._is_open:
            return
        while (ticket := self._queue.take(self._has_room)) is not None:
            # Where an older one has claimed the disk meanwhile, this one only learns of it when it is woken.
            if self._claims.secure(ticket.uid):
                self._slots.hold(ticket.uid, Hold(*ticket.lane))
                self._grants[ticket.uid] = ticket.lane
            self._wake.migration(ticket.key)

    def _has_room(self, source: str, destination: str) -> bool:
        return all(self._slots.active(name) < self._limit(name) for name in (source, destination))

    def _limit(self, name: str) -> int:
        record = self.inventory.domain(name)
        return record.domain.spec.max_concurrent_migrations if record is not None and record.domain is not None else 0


def _may_wait(migration: Migration) -> bool:
    spec = migration.spec
    return (
        spec is not None
        and not migration.is_deleting
        and not spec.cancel
        and not spec.suspend
        and validation.refusal_of(migration) is None
    )


def _lane(placement: Placement) -> Lane:
    return placement.source.storage_domain, placement.destination.storage_domain


def _ticket(migration: Migration, placement: Placement) -> Ticket:
    return Ticket(migration.created, migration.uid, migration.metadata.namespace, migration.key, _lane(placement))


def _disk_keys_by_spec(spec: DiskMigrationSpec, node: str) -> tuple[str, ...]:
    """For a VM that nobody reports: by what its migration calls it."""
    wanted = spec.virtual_machine
    by_uuid = (f"{wanted.uuid.lower()}/{spec.disk}",) if wanted.uuid else ()
    return by_uuid + ((f"{node}/{wanted.name}/{spec.disk}",) if wanted.name else ())
