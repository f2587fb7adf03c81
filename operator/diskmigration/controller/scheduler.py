"""Decide which migration runs next: judge, queue and reserve. In memory only, no requests.

A place is held from the moment it is granted, long before its migration's node is written: two migrations can never be
promised the same one, however late the API server's events are.

A migration that was accepted and cannot run at the moment is set aside: it keeps its age in the queue and its claim on
its disk, and others take the free places meanwhile. Whatever may let it run queues it again, before the next place is
granted.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from diskmigration.controller import delegations, dependencies, validation
from diskmigration.controller.cluster_inventory import ClusterInventory
from diskmigration.controller.dependencies import Dependency, DependencyIndex
from diskmigration.controller.disk_claims import Claim, DiskClaims, Rank
from diskmigration.controller.lanes import lane_of, lane_so_far
from diskmigration.controller.migration_cache import MigrationCache
from diskmigration.controller.placement import Surroundings, place
from diskmigration.controller.placement_outcome import Outcome, Placement, Refusal
from diskmigration.controller.queueing import FairQueue, Lane, Ticket, is_position_worth_writing
from diskmigration.controller.records import Migration
from diskmigration.controller.reservations import Limits, Reservation, Reservations, limits_of

_log = logging.getLogger(__name__)


class Scheduler:
    """Not thread-safe: one event loop owns it."""

    def __init__(
        self,
        migrations: MigrationCache,
        inventory: ClusterInventory,
        *,
        system_namespace: str,
        wake: Callable[[str], None],
    ) -> None:
        """Grant nothing before `open`. `wake` has a migration looked at, by its key."""
        self._migrations = migrations
        self._inventory = inventory
        self._system_namespace = system_namespace
        self._wake = wake
        self._queue = FairQueue()
        self._set_aside: dict[str, Ticket] = {}
        self._reservations = Reservations()
        self._claims = DiskClaims()
        self._dependents = DependencyIndex()
        self._grants: dict[str, Lane] = {}
        self._positions: dict[str, int] = {}
        self._is_open = False

    # What is decided

    def open(self) -> None:
        """Begin to grant places. Everything must have been observed once, and who may wait is queued by age."""
        for migration in sorted(self._migrations.active.values(), key=lambda one: (one.created, one.uid)):
            if migration.is_delegated:
                self.account(migration)  # again, as its VM may have been observed after it
            elif _may_wait(migration):
                match self.judge(migration):
                    case Placement() as placement:
                        self._claim(migration, placement.disk_keys)
                        self._queue.add(_ticket(migration, lane_of(placement)))
                    case Refusal() as refusal:
                        self._put_aside(migration, refusal)
        self._is_open = True
        self.grant()

    def judge(self, migration: Migration) -> Outcome:
        """Return where the migration can run as things are, or why not. It is woken when that may have changed.

        Raises:
            ValueError: its spec cannot be read.
        """
        if migration.spec is None:
            raise ValueError(f"{migration.key} has no readable spec")
        rank = self._rank(migration)
        around = Surroundings(
            inventory=self._inventory,
            system_namespace=self._system_namespace,
            blocked_by=lambda keys: self._claims.blocker(keys, rank),
            reserved_bytes=lambda domain, node: self._reservations.outstanding_bytes(domain, node, but=migration.uid),
        )
        outcome = place(migration.metadata.namespace, migration.spec, around)
        self._dependents.wait(migration.key, outcome.depends_on)
        return outcome

    def ask_for_place(self, migration: Migration, placement: Placement) -> bool:
        """Queue the migration, unless its turn has come: then it is True, and the place is held for it.

        Who is told True writes the node, or gives the place back with `withdraw` or `set_aside`.
        """
        self._set_aside.pop(migration.uid, None)
        self._claim(migration, placement.disk_keys)
        lane = lane_of(placement)
        granted = self._grants.get(migration.uid)
        if granted is not None and granted != lane:
            self._give_back(migration.uid)
        if placement.moves_nothing and self._claims.secure(migration.uid):
            # It ends as soon as its agent has looked, so it waits for no place.
            self._queue.remove(migration.uid)
            self._grants[migration.uid] = lane
        if migration.uid not in self._grants:
            self._queue.add(_ticket(migration, lane))
            self.grant()
        if migration.uid not in self._grants:
            return False
        self._reservations.hold(migration.uid, Reservation(*lane, placement.node, placement.needed_bytes))
        return True

    def set_aside(self, migration: Migration, refusal: Refusal) -> None:
        """Pass over an accepted migration until what it was refused for may have changed; it keeps its turn.

        A place that it was promised goes to the next.
        """
        self._put_aside(migration, refusal)
        self.grant()

    def withdraw(self, migration: Migration) -> None:
        """Take an undelegated migration out of the queue, with its claims and the place that it was promised."""
        self._leave(migration.uid)
        self.grant()

    def grant(self) -> None:
        """Promise every free place to the one whose turn it is."""
        if not self._is_open:
            return
        while (ticket := self._queue.take(self._has_room)) is not None:
            self._consider(ticket)
            self._wake(ticket.key)

    # What is observed

    def touch(self, changed: Iterable[Dependency], *, but: str = "") -> None:
        """Queue again and wake whoever was judged by what has changed. The caller calls `grant` then."""
        for key in self._dependents.concerned(changed):
            if key == but:
                continue
            migration = self._migrations.active.get(key)
            ticket = self._set_aside.pop(migration.uid, None) if migration is not None else None
            if ticket is not None:
                self._queue.add(ticket)
            self._wake(key)

    def account(self, migration: Migration) -> None:
        """Count a delegated migration's places, space and disk: they are its own until it has ended."""
        uid = migration.uid
        self._queue.remove(uid)
        self._set_aside.pop(uid, None)
        self._grants.pop(uid, None)
        self._positions.pop(uid, None)
        # Its deletion may have to wait for its agent.
        self._dependents.wait(migration.key, frozenset({dependencies.node(migration.status.node_name or "")}))
        if not self._reservations.holds(uid):
            hold = delegations.hold_of(migration, self._inventory)
            if hold is None:
                extra = {"migration": migration.key}
                _log.warning("a delegated migration does not say its storage domains", extra=extra)
            else:
                self._reservations.hold(uid, hold)
        awaits_cutover = delegations.awaits_cutover(migration)
        self._reservations.progress(uid, migration.status.allocated_bytes or 0, awaits_cutover=awaits_cutover)
        self._claim(migration, delegations.disk_keys_of(migration, self._inventory))

    def release(self, uid: str, key: str) -> None:
        """Free all that a migration had: it has ended, or is deleted."""
        self._leave(uid)
        self._dependents.forget(key)

    # What is shown

    def position(self, migration: Migration) -> int | None:
        """Return the position to publish: what is published, unless it is due to be written again.

        None where it does not wait for a place: it was set aside, which wakes it.
        """
        if migration.uid not in self._queue:
            return None
        due = self._positions.pop(migration.uid, None)
        if due is not None:
            return due
        return migration.status.queue_position or self._queue.position(migration.uid)

    def refresh_positions(self, *, at_most: int) -> None:
        """Wake those whose published position is too far from the truth, the nearest to the head first."""
        due = []
        for uid, position in self._queue.positions().items():
            ticket = self._queue.ticket(uid)
            migration = self._migrations.active.get(ticket.key) if ticket is not None else None
            if migration is not None and is_position_worth_writing(migration.status.queue_position, position):
                due.append((position, uid, migration.key))
        for position, uid, key in sorted(due)[:at_most]:
            self._positions[uid] = position
            self._wake(key)

    @property
    def queue_length(self) -> int:
        """How many wait for a place."""
        return len(self._queue)

    @property
    def set_aside_count(self) -> int:
        """How many were accepted and cannot run at the moment."""
        return len(self._set_aside)

    def active_on(self, domain: str) -> int:
        """Return how many places of a storage domain are taken or promised."""
        return self._reservations.active(domain, most_awaiting=self._limits(domain).synchronized)

    def migrations_on(self, domain: str) -> int:
        """Return how many migrations use a storage domain, also of those that take no place in it."""
        return self._reservations.active(domain, most_awaiting=0)

    # How it is kept

    def _consider(self, ticket: Ticket) -> None:
        """Promise a place to the one whose turn it is, if it can run as things are."""
        migration = self._migrations.active.get(ticket.key)
        if migration is None or migration.uid != ticket.uid or not _may_wait(migration):
            return
        outcome = self.judge(migration)
        if isinstance(outcome, Refusal):
            self._put_aside(migration, outcome)
            return
        lane = lane_of(outcome)
        self._claim(migration, outcome.disk_keys)
        if lane != ticket.lane:
            self._queue.add(replace(ticket, lane=lane))
        elif self._claims.secure(ticket.uid):
            self._reservations.hold(ticket.uid, Reservation(*lane, outcome.node, outcome.needed_bytes))
            self._grants[ticket.uid] = lane

    def _put_aside(self, migration: Migration, refusal: Refusal) -> None:
        """Keep its turn and its claim, if it was accepted once; all else that it had goes back."""
        lane = lane_so_far(migration, refusal)
        keys = refusal.disk_keys or self._claims.disks_of(migration.uid)
        if lane is None:
            self._leave(migration.uid)
            return
        self._queue.remove(migration.uid)
        self._give_back(migration.uid)
        self._positions.pop(migration.uid, None)
        self._claim(migration, keys)
        self._set_aside[migration.uid] = _ticket(migration, lane)

    def _rank(self, migration: Migration) -> Rank:
        """Whoever was granted a place comes before those who wait: its node may be written already."""
        waits = not migration.is_delegated and migration.uid not in self._grants
        return Rank(waits, migration.created, migration.uid)

    def _claim(self, migration: Migration, keys: tuple[str, ...]) -> None:
        claim = Claim(self._rank(migration), migration.key)
        touched = self._claims.claim(migration.uid, keys, claim)
        self.touch({dependencies.disk(key) for key in touched}, but=migration.key)

    def _leave(self, uid: str) -> None:
        self._queue.remove(uid)
        self._set_aside.pop(uid, None)
        self._give_back(uid)
        self._positions.pop(uid, None)
        self.touch({dependencies.disk(key) for key in self._claims.withdraw(uid)})

    def _give_back(self, uid: str) -> None:
        self._reservations.release(uid)
        self._grants.pop(uid, None)

    def _has_room(self, source: str, destination: str) -> bool:
        return all(self.active_on(name) < self._limits(name).concurrent for name in (source, destination))

    def _limits(self, name: str) -> Limits:
        record = self._inventory.domain(name)
        return limits_of(record.domain if record is not None else None)


def _may_wait(migration: Migration) -> bool:
    spec = migration.spec
    return (
        spec is not None
        and not migration.is_delegated
        and not migration.is_deleting
        and not spec.cancel
        and not spec.suspend
        and validation.refusal_of(migration) is None
    )


def _ticket(migration: Migration, lane: Lane) -> Ticket:
    return Ticket(migration.created, migration.uid, migration.metadata.namespace, migration.key, lane)
