"""The agent of one node: the extender, what it publishes, and a worker for each migration delegated to the node."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diskmigration.agent import metrics
from diskmigration.agent.extender.extender import OBSERVED_AT_ONCE, Extender
from diskmigration.agent.heartbeat import Heartbeat
from diskmigration.agent.host_publisher import HostPublisher
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.events import DomainEvent, Events, LifecycleChanged
from diskmigration.agent.hypervisor.qemu_calls import QemuCalls
from diskmigration.agent.hypervisor.starts import Starts
from diskmigration.agent.migration.adoption import adopt_journals
from diskmigration.agent.migration.lasting import show_what_lasts
from diskmigration.agent.migration.node_services import NodeServices
from diskmigration.agent.migration.orphans import Orphans
from diskmigration.agent.migration.removal import Remover
from diskmigration.agent.migration.worker import Worker
from diskmigration.agent.node.cache import NodeCache
from diskmigration.agent.node.inventory import inventory
from diskmigration.agent.other_hosts import OtherHosts
from diskmigration.agent.references.usage import UsageReader
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.agent.storage import kept_domains, qemu_img_process
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.locations import Locations
from diskmigration.agent.storage.lvm import group_devices
from diskmigration.api.disk_migration import DiskMigration, Phase
from diskmigration.api.libvirt_host import LibvirtHostStatus
from diskmigration.api.names import DISK_MIGRATIONS
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.cluster.client import Cluster
from diskmigration.observability.health import Health

_log = logging.getLogger(__name__)

LATE_SECONDS = 120.0
"""No request takes so long: a thread that has not turned since hangs."""

SETTLE_SECONDS = 15.0
"""How long the end waits for commands that change the storage: less than a pod is given to end."""


class Agent:
    """Fed with the objects that the API server shows; everything else it finds out for itself.

    It joins the parts, and has a method for each kind of news that one of them has for the others.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        libvirt_uri: str,
        node_name: str,
        namespace: str,
        agent_version: str,
        health: Health,
        state_directory: Path,
    ) -> None:
        """Nothing starts before `start`. The agent keeps in `state_directory` what the next one is to know."""
        self._node_name = node_name
        self._state_directory = state_directory
        self._cache = NodeCache(libvirt_uri, health, state_directory)
        connection = self._connection = Connection(libvirt_uri, self._cache.qemu_calls)
        events = Events(connection)
        self._domains = StorageDomains({})
        self._keeper = kept_domains.file_of(state_directory, self._domains.known)
        self._devices_keeper = group_devices.file_of(state_directory)
        # It asks VMs of which a poll had figures just now, and does not wait for migrations' calls to those that hang.
        extending = Connection(libvirt_uri, QemuCalls(self._cache.silent, most=OBSERVED_AT_ONCE))
        extender = Extender(extending, events, self._domains, health, describe=self._cache.current_description)
        hosts = OtherHosts(cluster, node_name=node_name, namespace=namespace)
        remover = Remover(connection, self._domains, hosts)
        self._node = NodeServices(
            name=node_name,
            system_namespace=namespace,
            connection=connection,
            domains=self._domains,
            extender=extender,
            other_hosts=hosts,
            remover=remover,
            starts=Starts(connection, events),
            note_change=self._cache.note_change,
            running=self._cache.running,
        )
        self._extender = extender
        self._statuses = StatusWriter(
            cluster,
            node_name=node_name,
            on_gone=self._abandon,
            on_turn=lambda: health.turned("the thread that writes statuses", within_seconds=LATE_SECONDS),
        )
        connection.on_turn(lambda: health.turned("libvirt's event loop", within_seconds=LATE_SECONDS))
        self._cluster = cluster
        self._orphans = Orphans(
            node_name=node_name,
            connection=connection,
            domains=self._domains,
            remover=remover,
            migrations_at_work=self._migrations_at_work,
        )
        self._usage = UsageReader(connection, self._domains)
        self._heartbeat = Heartbeat(cluster=cluster, node_name=node_name, namespace=namespace, health=health)
        self._publisher = HostPublisher(
            cluster=cluster,
            survey=self._survey,
            on_labels=self._domains.update_node_labels,
            node_name=node_name,
            health=health,
        )
        self._agent_version = agent_version
        self._surveyed = LibvirtHostStatus()
        self._locations = Locations(self._domains, self._domains.locate)
        self._guard = threading.Lock()
        self._is_stopping = False
        self._ends = threading.Event()
        self._workers: dict[str, Worker] = {}
        self._cache.listen(self._publisher.publish_soon)
        self._cache.listen_to_polls(extender.take_poll)
        events.listen(self._notice)
        metrics.MIGRATIONS_ACTIVE.set_function(self._active)
        metrics.QEMU_IMG_RUNNING.set_function(qemu_img_process.running)
        metrics.QEMU_IMG_WAITING.set_function(qemu_img_process.waiting)

    def start(self) -> None:
        """Start what needs no API server, with the storage domains that the last agent and the journals knew."""
        if (kept := kept_domains.read(self._state_directory)) is not None:
            self._domains.restore(kept)
            _log.info("began with the StorageDomains kept on the host", extra={"domains": len(kept.storage_domains)})
        group_devices.known.restore(group_devices.read(self._state_directory))
        group_devices.known.on_change(self._devices_keeper.write_soon)
        self._devices_keeper.start()
        self._connection.keep_open()
        self._cache.start()
        adopting = (self._connection, self._domains)
        threading.Thread(target=adopt_journals, args=adopting, name="journals", daemon=True).start()
        self._extender.start()
        self._statuses.start()
        lasting = (self._all_workers, self._ends)
        threading.Thread(target=show_what_lasts, args=lasting, name="messages", daemon=True).start()

    def observe_cluster(self, domains: list[StorageDomain], node_labels: Mapping[str, str]) -> None:
        """Start the rest, once the API server has shown its storage domains and the labels that select them."""
        self._domains.update_all(domains, node_labels)
        # Not before: nothing that was kept is lost where it could not be read and the API server is away.
        self._domains.on_change(self._keeper.write_soon)
        self._keeper.start()
        self._heartbeat.start()
        self._publisher.start()
        self._orphans.start()
        self._usage.start()

    def stop(self) -> None:
        """End the workers' and the extender's own work. The jobs in QEMU go on, and the next agent finds them.

        It waits for what the storage has begun: in a pod, that would be killed with the agent.
        """
        self._orphans.stop()
        self._ends.set()
        with self._guard:
            self._is_stopping = True
        for worker in self._all_workers():
            worker.stop()
        self._extender.stop()
        if not self._domains.wait_until_idle(timeout=SETTLE_SECONDS):
            _log.warning("the agent ends while the storage is still being changed")

    def observe_storage_domain(self, domain: StorageDomain) -> None:
        """Record a storage domain, new or changed."""
        if self._domains.put(domain):
            self._publisher.publish_soon()

    def forget_storage_domain(self, name: str, uid: str) -> None:
        """Take no new migration to or from a storage domain that was deleted, unless another one has its name."""
        self._domains.remove(name, uid)
        self._publisher.publish_soon()

    def storage_domains(self) -> Mapping[str, str]:
        """Return the uid of each storage domain that was seen and not forgotten, by its name."""
        return self._domains.uids()

    def migrations(self) -> Mapping[str, tuple[str, str]]:
        """Return the namespace and name of each migration that was seen and not forgotten, by its uid."""
        with self._guard:
            seen = {uid: worker.metadata for uid, worker in self._workers.items()}
        return {uid: (metadata.namespace, metadata.name) for uid, metadata in seen.items()}

    def observe_migration(self, migration: DiskMigration) -> None:
        """Record a migration that was delegated to this node, and tell or start its worker."""
        if migration.status.node_name != self._node_name:
            return
        uid = migration.metadata.uid
        is_final = migration.status.phase is not None and migration.status.phase.is_final
        with self._guard:
            if self._is_stopping:
                return
            worker = self._workers.get(uid)
            if worker is not None and worker.has_died() and not is_final:
                _log.error("a migration's worker has died and is started again", extra={"migration": migration.key})
                worker = None
            if worker is None and not is_final:
                worker = Worker(self._node, migration, self._statuses, on_end=self._leave)
                self._workers[uid] = worker
                worker.start()
            elif worker is not None and worker.is_alive():
                worker.update(migration)
            elif is_final:
                # Only now: until its end has been seen, an older event may still come and must not start it again.
                self._workers.pop(uid, None)

    def _leave(self, uid: str) -> None:
        """Drop a worker that has ended if the end of its migration was seen; `observe_migration` drops it else."""
        with self._guard:
            worker = self._workers.get(uid)
            if worker is not None and worker.has_seen_end():
                del self._workers[uid]

    def forget_migration(self, uid: str) -> None:
        """The object is gone; what its migration made is cleaned up if it still runs."""
        self._abandon(uid)
        with self._guard:
            if uid in self._workers and not self._workers[uid].is_alive():
                del self._workers[uid]

    def _survey(self) -> LibvirtHostStatus:
        self._surveyed = inventory(
            self._cache.snapshot(),
            self._domains,
            self._locations,
            agent_version=self._agent_version,
            orphans_of=self._orphans.of,
            usage=self._usage.current(),
            before=self._surveyed,
            describe=self._cache.current_description,
        )
        return self._surveyed

    def _abandon(self, uid: str) -> None:
        with self._guard:
            worker = self._workers.get(uid)
        if worker is not None:
            worker.abandon()

    def _migrations_at_work(self) -> frozenset[str]:
        """Return the uids of this node's migrations that have not ended, as the API server knows them or a worker does.

        Raises:
            ClusterError: the API server does not answer.
        """
        listed = self._cluster.list(DISK_MIGRATIONS, field_selector=f"status.nodeName={self._node_name}")
        with self._guard:
            working = {uid for uid, worker in self._workers.items() if worker.is_alive()}
        return frozenset(working | {body["metadata"]["uid"] for body in listed if not _has_ended(body)})

    def _active(self) -> int:
        with self._guard:
            return sum(worker.is_alive() for worker in self._workers.values())

    def _notice(self, event: DomainEvent) -> None:
        if isinstance(event, LifecycleChanged):
            self._usage.look_soon()
        for worker in self._all_workers():
            worker.notice(event)

    def _all_workers(self) -> list[Worker]:
        with self._guard:
            return list(self._workers.values())


def _has_ended(body: Mapping[str, Any]) -> bool:
    phase = body.get("status", {}).get("phase")
    return phase in list(Phase) and Phase(phase).is_final
