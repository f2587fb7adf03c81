"""The extender at work: woken by libvirt's events, and every few seconds for what events miss, it extends what is due.

Events alone are not enough: they are lost while libvirtd is down, and a threshold that was passed before it was armed
never fires. Polling alone is not fast enough. Whatever wakes it, the extender looks at the truth and acts on that.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from diskmigration.agent import metrics
from diskmigration.agent.extender.doubts import Doubts
from diskmigration.agent.extender.full_domains import FullDomains
from diskmigration.agent.extender.growth import Growth
from diskmigration.agent.extender.paces import Paces
from diskmigration.agent.extender.resumes import Resumer
from diskmigration.agent.extender.settled import Settled, Specs
from diskmigration.agent.extender.sight import Polled, PollQueue, Sight, is_enough
from diskmigration.agent.extender.watched import WatchedDisk, watched_as_known, watched_disks
from diskmigration.agent.hypervisor import statistics
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.agent.hypervisor.events import DomainEvent, Events, LifecycleChanged, ThresholdPassed
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.api.errors import MigrationError
from diskmigration.observability.health import Health
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

_WORKERS = 8
TURN_SECONDS = 10.0
LATE_SECONDS = 120.0
"""Nothing that it does takes so long."""


class Extender:
    """Watches every running VM of the node from `start` to `stop`. Never waits for the API server."""

    def __init__(
        self,
        connection: Connection,
        events: Events,
        domains: StorageDomains,
        health: Health,
        *,
        describe: Callable[[str], DomainDescription | None],
    ) -> None:
        """Listens at once; nothing is extended before `start`. Whoever polls all VMs calls `take_poll`.

        `describe` returns a VM's XML, or None where it may have changed since it was read.
        """
        self._describe = describe
        self._connection = connection
        self._health = health
        self._domains = domains
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="look")
        self._answers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="answer")
        self._paces = Paces()
        self._growth = Growth(self._paces, look_again=self.look_soon)
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._look_after_polls, name="extender", daemon=True)
        self._polls = PollQueue()
        self._guard = threading.Lock()
        self._busy: dict[str, bool] = {}
        self._doubts = Doubts()
        self._full = FullDomains(domains)
        self._settled = Settled()
        self._believed: dict[str, DomainStatistics] = {}
        self._volumes: dict[str, int] = {}
        self._paused: set[str] = set()
        self._looked_at: dict[str, float] = {}
        self._resumer = Resumer()
        events.listen(self._notice)

    def start(self) -> None:
        """Starts looking after all VMs."""
        metrics.VOLUMES_DOUBTED.set_function(self._doubts.count)
        metrics.VOLUMES_WATCHED.set_function(lambda: sum(self._volumes.copy().values()))
        self._poller.start()

    def stop(self) -> None:
        """Ends after the extensions that are under way."""
        self._stopping.set()
        self._answers.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._growth.stop()

    def extensions_of(self, path: str) -> int:
        """How many times the volume at that path was extended since this agent started."""
        return self._growth.extensions_of(path)

    def trouble_of(self, path: str) -> MigrationError | None:
        """Why the volume at that path could not be extended when that was last due; None when it could."""
        return self._growth.trouble_of(path)

    def doubt_of(self, path: str) -> MigrationError | None:
        """What libvirt reports of the volume at that path that cannot be, so that it is not extended on it; or None."""
        return self._doubts.about(path)

    def full_domain_of(self, path: str) -> str | None:
        """The storage domain whose lack of room keeps the guest on that active layer paused; None where none does."""
        return self._full.awaited_by(path)

    def _notice(self, event: DomainEvent) -> None:
        if isinstance(event, ThresholdPassed):
            self._growth.note_due(event.uuid, event.device.partition("[")[0])
            if "[" in event.device and not self._stopping.is_set():
                self._answers.submit(self._answer, event, time.monotonic())
        elif isinstance(event, LifecycleChanged):
            # A VM that starts anew opens its volumes anew.
            self._believed.pop(event.uuid, None)
        self.look_soon(event.uuid)

    def _answer(self, event: ThresholdPassed, at: float) -> None:
        """Extends at once what the event tells of, without asking QEMU: a busy one lets its statistics wait.

        Which volume is in which place comes from libvirt's live XML, as it may have changed; how large it is, from the
        kernel; how far it is written, from the event; and what remains from the last look. A look comes after it.
        """
        self._paces.see_passed(event.uuid, event.device, event.offset_bytes, at=at)
        believed = self._believed.get(event.uuid)
        if believed is None:
            return
        domain = Domain(self._connection, event.uuid)
        target = event.device.partition("[")[0]
        try:
            found = believed.written_up_to(event.device, event.offset_bytes)
            disk = watched_as_known(domain.describe(), found, self._domains, target=target)
            disk = self._paces.adapted(event.uuid, disk) if disk is not None else None
            if disk is not None and (due := disk.plan()):
                self._growth.start(domain, disk, due)
        except MigrationError as error:
            _log.debug("an event is left to the look", extra={"vm": event.uuid, "error": error.message})
        except Exception:  # noqa: BLE001 - a worker that dies silently would leave a guest to run full
            _log.exception("the extender failed", extra={"vm": event.uuid})

    def look_soon(self, uuid: str, sight: Sight | None = None) -> None:
        """Looks at the VM in a worker, by what was seen or else by asking libvirt, and returns at once.

        What comes while one looks makes it look once more; nobody looks twice at a time.
        """
        if self._stopping.is_set():
            return
        with self._guard:
            if uuid in self._busy:
                self._busy[uuid] = True
                return
            self._busy[uuid] = False
        try:
            self._pool.submit(self._look_until_quiet, uuid, sight)
        except RuntimeError:
            # No thread could be started, or the pool is shut down. A VM that stays busy would never be looked at again.
            with self._guard:
                self._busy.pop(uuid, None)
            raise

    def _look_until_quiet(self, uuid: str, sight: Sight | None) -> None:
        while True:
            with self._guard:
                # A look whose submission failed stays in the pool's queue, beside the one that followed it.
                if uuid not in self._busy:
                    return
            try:
                self._look(uuid, sight)
            except DomainGoneError:
                self._forget(uuid)
                self._paused.discard(uuid)
            except MigrationError as error:
                _log.warning("the VM's volumes could not be looked after", extra={"vm": uuid, "error": error.message})
            except Exception:  # noqa: BLE001 - a worker that dies silently would leave a guest to run full
                _log.exception("the extender failed", extra={"vm": uuid})
            with self._guard:
                if not self._busy.get(uuid):
                    self._busy.pop(uuid, None)
                    return
                self._busy[uuid] = False
            sight = None

    def take_poll(self, rows: tuple[DomainStatistics, ...], asked_at: float) -> None:
        """Have all running VMs looked after by the statistics that were asked for then, and return at once."""
        self._polls.put(Polled(rows, asked_at, time.monotonic()))

    def _look_after_polls(self) -> None:
        while not self._stopping.is_set():
            self._health.turned("the thread that looks after all VMs", within_seconds=LATE_SECONDS)
            with surviving("the thread that looks after all VMs", pause=self._stopping.wait):
                if (poll := self._polls.take(timeout=TURN_SECONDS)) is not None:
                    self._look_after_all(poll)

    def _look_after_all(self, poll: Polled) -> None:
        # A copy in one go, as the workers write to it.
        for uuid in set(self._volumes.copy()) - {found.uuid for found in poll.rows}:
            self._forget(uuid)
        specs = self._specs()
        self._paces.export(specs)
        for found in poll.rows:
            self._look_unless_settled(found, specs, poll)

    def _look_unless_settled(self, found: DomainStatistics, specs: Specs, poll: Polled) -> None:
        now = time.monotonic()
        if not found.has_figures:
            # A look would wait for a QEMU that is busy or hangs, and nothing is decided without figures.
            return
        if self._settled.includes(found, specs, at=now):
            self._paces.see_still(found.uuid, at=now)
        else:
            description = self._describe(found.uuid)
            sight = Sight(description, found, poll.asked_at, poll.found_at) if description is not None else None
            self.look_soon(found.uuid, sight)

    def _specs(self) -> Specs:
        return {known.name: known.domain.spec for known in self._domains.all()}

    def _forget(self, uuid: str) -> None:
        self._settled.forget(uuid)
        self._doubts.forget(uuid)
        self._full.forget(uuid)
        self._paces.forget(uuid)
        self._believed.pop(uuid, None)
        self._volumes.pop(uuid, None)
        self._looked_at.pop(uuid, None)
        self._resumer.forget(uuid)

    def _look(self, uuid: str, sight: Sight | None) -> None:
        """Has what is due on one VM extended, arms its thresholds, and resumes it where a full volume had paused it.

        No extension is waited for: each has the VM looked at again when it is done.

        Raises:
            MigrationError: libvirt failed; the next look tries again.
        """
        self._settled.forget(uuid)
        specs = self._specs()
        domain = Domain(self._connection, uuid)
        without_space, relieved = frozenset[str](), self._growth.relieved(uuid)
        if relieved or uuid in self._paused or not is_enough(sight, looked_at=self._looked_at.get(uuid)):
            without_space = domain.disks_without_space() if domain.is_paused_by_io_error() else without_space
            relieved = self._growth.relieved(uuid)
            description, asked_at = domain.describe(), time.monotonic()
            sight = Sight(description, statistics.of_domain(domain), asked_at, time.monotonic())
        description, found, found_at = sight.description, sight.found, sight.found_at
        self._looked_at[uuid] = found_at
        self._count_pause(uuid, is_full=bool(without_space))
        is_without = [disk for disk in description.disks if disk.target in without_space]
        growing = watched_disks(description, found, self._domains) if is_without else ()
        relief = self._full.judge(uuid, is_without, growing)
        full = without_space - relieved - relief.waiting
        disks = watched_disks(description, found, self._domains, without_space=full)
        is_whole = all(disk.is_known for disk in disks)
        if is_whole:
            self._volumes[uuid] = sum(len(disk.volumes) for disk in disks)
        volumes = [volume for disk in disks for volume in disk.volumes]
        doubted = self._doubts.judge(uuid, found.run, volumes, is_whole=is_whole)
        # A damaged destination must not stop the guest: each side grows without the other.
        believed = [disk for disk in (disk.without(doubted) for disk in disks) if disk.volumes]
        seen = [volume for disk in believed for volume in disk.volumes]
        self._paces.see(uuid, seen, at=found_at, is_whole=is_whole)
        sure = [disk for disk in disks if disk.is_known]
        targets = {disk.target for disk in sure if doubted.isdisjoint(each.thin.path for each in disk.volumes)}
        self._believed[uuid] = replace(found, layers=tuple(row for row in found.layers if row.target in targets))
        at_rest = [self._tend(domain, disk) for disk in believed]
        if without_space and without_space <= (relieved | relief.ready) - relief.waiting:
            # A disk that is full for another reason would pause the guest again at once.
            if self._resumer.resume(domain, has_grown=bool(relieved & without_space), paused_at=found_at):
                self._growth.forget_relieved(uuid)
        elif relieved and not without_space:
            self._growth.forget_relieved(uuid)
        elif (
            is_whole
            and all(at_rest)
            and not (doubted or without_space or any(disk.mirror for disk in description.disks))
        ):
            self._settled.note(found, specs, at=found_at)

    def _count_pause(self, uuid: str, *, is_full: bool) -> None:
        if not is_full:
            self._paused.discard(uuid)
        elif uuid not in self._paused:
            self._paused.add(uuid)
            metrics.GUEST_PAUSES.inc()

    def _tend(self, domain: Domain, disk: WatchedDisk) -> bool:
        """Whether the disk needs nothing, and will not for as long as nobody writes to it."""
        adapted = self._paces.adapted(domain.uuid, disk)
        due = adapted.plan()
        self._growth.start(domain, adapted, due)
        paths = {extension.path for extension in due}
        for volume in adapted.volumes:
            if volume.thin.path not in paths:
                self._growth.arm(domain, volume, volume.thin.physical)
        if due:
            return False
        self._growth.forget_due(domain.uuid, disk.target)
        return adapted == disk
