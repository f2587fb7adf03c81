"""An agent whose node is simulated: the real watch, statuses, Lease and LibvirtHost, and no libvirt and no storage.

What it tells moves as that of a real node does: guests write, the shared storage fills, and a move that replicates has
progress to show each second. The real agent's pacing decides what is written of it. Not there: the extender, and the
search for orphaned volumes, as they look at the storage.
"""

import heapq
import random
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from diskmigration.agent.heartbeat import KUBERNETES_API, Heartbeat
from diskmigration.agent.host_publisher import HostPublisher
from diskmigration.agent.migration import status
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.progress import Meter
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.api.disk_migration import DiskMigration, DiskMigrationStatus, Phase, VolumeFormat
from diskmigration.api.errors import Reason
from diskmigration.api.libvirt_host import (
    Disk,
    LibvirtHostStatus,
    NodeStorageDomain,
    VirtualMachine,
    VirtualMachineState,
)
from diskmigration.api.names import SYSTEM_NAMESPACE
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.cluster.client import Cluster
from diskmigration.observability.health import Health

GIB = 2**30
DISK_BYTES = 10 * GIB
WIDE, NARROW = "wide", "narrow"
"""Kinds of pairs of storage domains: with places for all, and one with few."""

PLACES = 1000
"""As many as a storage domain may have at most: of the wide pairs there is one for each thousand migrations."""

TARGETS = {WIDE: "vda", NARROW: "vdb"}
PHASES = (Phase.PREPARING_DESTINATION, Phase.REPLICATING, Phase.PIVOTING, Phase.CLEANING_UP)
"""Those of strategy Direct."""


NAMESPACES = 20
MACHINES = 50
"""VMs of a node, where no more of them are moved."""
WRITING_SHARE = 5
"""Each fifth of the VMs writes."""
WRITTEN_BYTES_PER_SECOND = 2**20
FILLED_BYTES_PER_SECOND = 100 * 2**20
"""By how much the storage that all nodes share fills."""
PROGRESS_SECONDS = 1.0


def namespace_of(number: int) -> str:
    """The namespace to which the VM of the n-th migration belongs."""
    return f"vms-{number % NAMESPACES}"


def domain_name(pair: str, number: int, side: str) -> str:
    """Where the disk of the n-th migration lies (`source`) or goes to (`destination`)."""
    return f"{WIDE}-{number // PLACES}-{side}" if pair == WIDE else f"{NARROW}-{side}"


def machine_name(node: str, number: int) -> str:
    return f"vm-{number}-on-{node}"


class SimulatedNode:
    """An audience of the agent's watch; counts what it hears.

    `numbers` are those of the migrations of its VMs, one for each VM.
    """

    def __init__(self, cluster: Cluster, name: str, numbers: range, moves: "Moves") -> None:
        self.name = name
        self.events = 0
        self.foreign_events = 0
        self.health = Health(KUBERNETES_API)
        self.statuses = StatusWriter(
            cluster, node_name=name, on_gone=lambda _: None, on_turn=lambda: self.health.turned("x", within_seconds=60)
        )
        self.domains: dict[str, StorageDomain] = {}
        self._heartbeat = Heartbeat(cluster=cluster, node_name=name, namespace=SYSTEM_NAMESPACE, health=self.health)
        self._publisher = HostPublisher(
            cluster=cluster,
            survey=self._survey,
            on_labels=lambda _labels: None,
            node_name=name,
            health=self.health,
        )
        self._moves = moves
        self._guard = threading.Lock()
        self._machines = {machine_name(name, place): number for place, number in enumerate(numbers)}
        idle = range(len(self._machines), MACHINES)
        self._machines |= {f"idle-{place}-on-{name}": place for place in idle}
        self._began_at = time.monotonic()
        self._moved: set[tuple[str, str]] = set()
        self._known: dict[str, tuple[str, str]] = {}

    def start(self) -> None:
        self.statuses.start()

    def observe_cluster(
        self,
        domains: list[StorageDomain],
        node_labels: Mapping[str, str],  # noqa: ARG002 - it serves every domain
    ) -> None:
        for domain in domains:
            self.observe_storage_domain(domain)
        self._heartbeat.start()
        self._publisher.start()

    def observe_storage_domain(self, domain: StorageDomain) -> None:
        self.domains[domain.metadata.name] = domain

    def forget_storage_domain(self, name: str, uid: str) -> None:
        if self.storage_domains().get(name) == uid:
            del self.domains[name]

    def observe_migration(self, migration: DiskMigration) -> None:
        uid, phase = migration.metadata.uid, migration.status.phase
        with self._guard:
            self.events += 1
            if migration.status.node_name != self.name:
                self.foreign_events += 1
                return
            is_new = uid not in self._known
            self._known[uid] = (migration.metadata.namespace, migration.metadata.name)
        if phase is not None and phase.is_final:
            self.statuses.forget(uid)
        elif is_new:
            self._moves.begin(self, migration)
        else:
            self.statuses.compare(migration)

    def forget_migration(self, uid: str) -> None:
        self.statuses.forget(uid)
        with self._guard:
            self._known.pop(uid, None)

    def storage_domains(self) -> Mapping[str, str]:
        return {name: domain.metadata.uid for name, domain in self.domains.items()}

    def migrations(self) -> Mapping[str, tuple[str, str]]:
        with self._guard:
            return dict(self._known)

    def finish(self, migration: DiskMigration) -> None:
        """The disk lives at the destination from now on."""
        with self._guard:
            self._moved.add((migration.spec.virtual_machine.name or "", migration.spec.disk))
        self._publisher.publish_soon()

    def _survey(self) -> LibvirtHostStatus:
        # By the clock that all nodes share, as they share the storage.
        filled = int(time.monotonic()) * FILLED_BYTES_PER_SECOND % (500 * GIB)
        with self._guard:
            machines = tuple(
                VirtualMachine(
                    name=name,
                    uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
                    state=VirtualMachineState.RUNNING,
                    owner_namespace=namespace_of(number),
                    disks=tuple(self._disk(name, number, pair, target) for pair, target in TARGETS.items()),
                )
                for name, number in self._machines.items()
            )
        return LibvirtHostStatus(
            observed_generation=1,
            libvirt_version="9.0.0",
            qemu_version="7.2.22",
            agent_version="simulated",
            virtual_machine_count=len(machines),
            storage_domains=tuple(
                NodeStorageDomain(name=name, ready=True, capacity_bytes=2000 * GIB, available_bytes=1000 * GIB - filled)
                for name in sorted(self.domains)
            ),
            virtual_machines=machines,
        )

    def _disk(self, machine: str, number: int, pair: str, target: str) -> Disk:
        side = "destination" if (machine, target) in self._moved else "source"
        writes = target == TARGETS[WIDE] and number % WRITING_SHARE == 0
        written = int(time.monotonic() - self._began_at) * WRITTEN_BYTES_PER_SECOND if writes else 0
        return Disk(
            target=target,
            storage_domain_name=domain_name(pair, number, side),
            volume=f"{machine}-{target}.qcow2",
            type="File",
            format="qcow2",
            capacity_bytes=DISK_BYTES,
            size_bytes=min(GIB + written, DISK_BYTES),
            allocated_bytes=min(GIB + written, DISK_BYTES),
        )


@dataclass
class _Move:
    node: SimulatedNode
    migration: DiskMigration
    status: DiskMigrationStatus
    journal: Journal
    meter: Meter = field(default_factory=Meter)
    step: int = 0
    phase_began_at: float = 0.0
    phase_ends_at: float = 0.0

    @property
    def replicates(self) -> bool:
        """Whether it is in the phase in which bytes are copied."""
        return self.step > 0 and PHASES[self.step - 1] is Phase.REPLICATING

    def advance(self) -> bool:
        """Shows the next phase; whether there is one more."""
        now = datetime.now(UTC)
        if self.step == len(PHASES):
            self.status = status.ended(
                self.status,
                self.migration,
                phase=Phase.SUCCEEDED,
                reason=Reason.MIGRATED,
                message=f"The disk lives in the storage domain {self.journal.destination_domain.metadata.name}.",
                now=now,
            )
            self.node.statuses.show(self.migration, self.status)
            self.node.finish(self.migration)
            return False
        self.step += 1
        self.show(now, self.meter.copied)
        return True

    def show_progress(self) -> None:
        """Shows how far the phase is in which bytes are copied."""
        share = (time.monotonic() - self.phase_began_at) / (self.phase_ends_at - self.phase_began_at)
        self.show(datetime.now(UTC), int(GIB * min(share, 1.0)))

    def show(self, now: datetime, copied: int) -> None:
        """Hands the status to the real agent's writer, which decides when it is written."""
        self.meter = self.meter.advanced(now=time.monotonic(), copied=copied, total=GIB)
        volumes = (*self.journal.source, *self.journal.destination)
        self.status = status.under_way(
            self.status,
            self.migration,
            phase=PHASES[self.step - 1],
            journal=self.journal,
            figures={volume.path: status.VolumeFigures(GIB, self.meter.copied, 0) for volume in volumes},
            meter=self.meter,
            message="",
            now=now,
        )
        self.node.statuses.show(self.migration, self.status)


class Moves:
    """The simulated hosts of one process: each phase takes about so many seconds, by the pair of domains."""

    def __init__(self, step_seconds: Mapping[str, float]) -> None:
        self.ended = 0
        self._step_seconds = step_seconds
        self._due: list[tuple[float, str, _Move]] = []
        self._changed = threading.Condition()
        self._random = random.Random(1)  # noqa: S311 - spreads the steps, keeps no secret
        threading.Thread(target=self._run, name="moves", daemon=True).start()

    def begin(self, node: SimulatedNode, migration: DiskMigration) -> None:
        source, destination = migration.status.source, migration.status.destination
        assert source is not None
        assert destination is not None
        volume = f"{migration.spec.virtual_machine.name}-{migration.spec.disk}.qcow2"
        of_source, of_destination = (
            node.domains[source.storage_domain_name],
            node.domains[destination.storage_domain_name],
        )
        journal = Journal(
            migration=migration,
            attempt=1,
            source_domain=of_source,
            destination_domain=of_destination,
            source=(_volume(of_source, volume),),
            destination=(_volume(of_destination, f"{volume}-{migration.metadata.uid}"),),
        )
        self._begin_phase(_Move(node, migration, migration.status, journal))

    def _begin_phase(self, move: _Move) -> None:
        pair = move.journal.source_domain.metadata.name.partition("-")[0]
        move.phase_began_at = time.monotonic()
        move.phase_ends_at = move.phase_began_at + self._step_seconds[pair] * self._random.uniform(0.5, 1.5)
        self._later(move)

    def _later(self, move: _Move) -> None:
        due = move.phase_ends_at
        if move.replicates:
            due = min(due, time.monotonic() + PROGRESS_SECONDS)
        with self._changed:
            heapq.heappush(self._due, (due, move.migration.metadata.uid, move))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                _, _, move = heapq.heappop(self._due)
            if time.monotonic() < move.phase_ends_at:
                move.show_progress()
                self._later(move)
            elif move.advance():
                self._begin_phase(move)
            else:
                self.ended += 1


def _volume(domain: StorageDomain, name: str) -> JournalVolume:
    assert domain.spec.file is not None
    return JournalVolume(
        name=name,
        path=f"{domain.spec.file.path}/{name}",
        format=VolumeFormat.QCOW2,
        type=domain.spec.type,
        capacity_bytes=DISK_BYTES,
    )
