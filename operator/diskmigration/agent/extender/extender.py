"""The extender of the node: hands libvirt's events and the node's polls to the VMs that they concern."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from diskmigration.agent import metrics
from diskmigration.agent.extender import histories
from diskmigration.agent.extender.extension_scheduler import ExtensionScheduler, StorageLatency
from diskmigration.agent.extender.machine import Environment, VirtualMachine, VolumeStatus
from diskmigration.agent.extender.observation import Polled, PollQueue, Specs
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.events import DomainEvent, Events
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.locations import Locations
from diskmigration.observability.health import Health
from diskmigration.observability.loops import surviving

OBSERVED_AT_ONCE = 32
"""More than a libvirtd works on (max_workers in libvirtd.conf), so that VMs which do not answer keep no thread from one
that does."""
TURN_SECONDS = 10.0
LATE_SECONDS = 120.0
"""No turn takes so long."""


class Extender:
    """Keep the thin volumes of every running VM extended from `start` to `stop`, without the API server.

    It has a method for each event, poll and question that concerns a VM, and decides nothing itself.
    """

    def __init__(
        self,
        connection: Connection,
        events: Events,
        domains: StorageDomains,
        health: Health,
        *,
        describe: Callable[[str], DomainDescription | None],
    ) -> None:
        """Listen at once; nothing is extended before `start`. Whoever polls all VMs calls `take_poll`.

        `describe` returns a VM's XML, or None where it may have changed since it was read.
        """
        self._health = health
        self._environment = Environment(
            connection=connection,
            domains=domains,
            locations=Locations(domains, domains.locate_in_any),
            describe=describe,
            scheduler=ExtensionScheduler(),
            observers=ThreadPoolExecutor(OBSERVED_AT_ONCE, thread_name_prefix="observe"),
            answerers=ThreadPoolExecutor(OBSERVED_AT_ONCE, thread_name_prefix="answer"),
        )
        self._stopping = threading.Event()
        self._polls = PollQueue()
        self._poller = threading.Thread(target=self._take_polls, name="extender", daemon=True)
        self._lock = threading.Lock()
        self._machines: dict[str, VirtualMachine] = {}
        events.listen(self._notice)

    def start(self) -> None:
        """Start to look after all VMs."""
        metrics.VOLUMES_DOUBTED.set_function(
            lambda: sum(len(histories.lasting_problems(machine.histories)) for machine in self._all())
        )
        metrics.VOLUMES_WATCHED.set_function(lambda: sum(machine.state.volume_count for machine in self._all()))
        self._poller.start()

    def stop(self) -> None:
        """End after the extensions that are under way."""
        self._stopping.set()
        self._environment.answerers.shutdown(wait=True, cancel_futures=True)
        self._environment.scheduler.stop()
        self._environment.observers.shutdown(wait=True, cancel_futures=True)

    def status_of(self, path: str) -> VolumeStatus:
        """Return what is known of the volume at that path."""
        known = (machine.status_of(path) for machine in self._all())
        return next((status for status in known if status is not None), VolumeStatus())

    def forget_volumes(self, uuid: str, paths: Iterable[str]) -> None:
        """Forget the extensions of volumes that a migration of the VM's disk has left behind."""
        with self._lock:
            if (machine := self._machines.get(uuid)) is not None:
                machine.forget_volumes(paths)

    def observe_soon(self, uuid: str) -> None:
        """Have the VM observed, and return at once."""
        if not self._stopping.is_set():
            with self._lock:
                self._machine(uuid).observe_soon()

    def take_poll(self, rows: tuple[DomainStatistics, ...], asked_at: float) -> None:
        """Have all running VMs looked after by the statistics that were asked for then, and return at once."""
        self._polls.put(Polled(rows, asked_at, time.monotonic()))

    def _notice(self, event: DomainEvent) -> None:
        if self._stopping.is_set():
            return
        with self._lock:
            self._machine(event.uuid).take_event(event)

    def _take_polls(self) -> None:
        while not self._stopping.is_set():
            self._health.turned("the thread that looks after all VMs", within_seconds=LATE_SECONDS)
            with surviving("the thread that looks after all VMs", pause=self._stopping.wait):
                if (poll := self._polls.take(timeout=TURN_SECONDS)) is not None:
                    self._look_after_all(poll)

    def _look_after_all(self, poll: Polled) -> None:
        specs = {known.name: known.domain.spec for known in self._environment.domains.all()}
        self._forget_all_but({row.uuid for row in poll.rows}, asked_at=poll.asked_at)
        _export(self._all(), self._environment.scheduler.latency, specs)
        for row in poll.rows:
            with self._lock:
                self._machine(row.uuid).take_poll(row, poll, specs)

    def _forget_all_but(self, running: set[str], *, asked_at: float) -> None:
        with self._lock:
            for uuid in self._machines.keys() - running:
                machine = self._machines[uuid]
                observed_at = machine.state.observed_at
                if observed_at is not None and observed_at >= asked_at:
                    continue  # it was started after the poll
                machine.reset()
                # As long as something is under way for the VM, this object is the only one that works on it.
                if machine.is_at_rest:
                    del self._machines[uuid]
            known = frozenset(self._machines)
        self._environment.locations.keep_only(known)

    def _all(self) -> tuple[VirtualMachine, ...]:
        with self._lock:
            return tuple(self._machines.values())

    def _machine(self, uuid: str) -> VirtualMachine:
        """Under the lock, as is what it is asked for: an object that nobody uses may go."""
        if uuid not in self._machines:
            self._machines[uuid] = VirtualMachine(uuid, self._environment)
        return self._machines[uuid]


def _export(machines: Iterable[VirtualMachine], latency: StorageLatency, specs: Specs) -> None:
    """Set the gauges of the storage domains."""
    every = [history for machine in machines for history in machine.histories.values()]
    now = time.monotonic()
    for name in specs:
        there = [history for history in every if history.storage_domain == name]
        metrics.WRITE_RATE.labels(name).set(max((history.rate(now) for history in there), default=0.0))
        metrics.HEAD_ROOM.labels(name).set(max((history.head_room for history in there), default=0))
        metrics.EXTENSION_LATENCY.labels(name).set(latency.latency(name))
