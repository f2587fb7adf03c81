"""One running VM: what is known of its thin volumes, and what is under way for them.

Events alone are not enough: they are lost while libvirtd is down, and a threshold that was passed before it was armed
never fires. Polling alone is not fast enough. So an event extends at once by what is known, and an observation follows
it; a poll has a VM observed whose figures have changed.
"""

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from diskmigration.agent.extender import histories
from diskmigration.agent.extender.extension_scheduler import ExtensionScheduler
from diskmigration.agent.extender.extensions import Outcome, VmExtensions
from diskmigration.agent.extender.histories import Histories, VolumeHistories
from diskmigration.agent.extender.mailbox import Mailbox
from diskmigration.agent.extender.observation import Observation, Polled, Specs
from diskmigration.agent.extender.observer import Observer, RunState
from diskmigration.agent.extender.thin_disk import OpenVolume, ThinDisk, disk_by_event
from diskmigration.agent.extender.watermark import Extension
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.agent.hypervisor.events import DomainEvent, LifecycleChanged, ThresholdPassed
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.locations import Locations
from diskmigration.api.errors import MigrationError

_log = logging.getLogger(__name__)

_OBSERVE = "observe"


@dataclass(frozen=True)
class Environment:
    """The parts that all VMs of the node share. Events have threads of their own, as an observation may wait for QEMU.

    `describe` returns a VM's XML, or None where it may have changed since it was read.
    """

    connection: Connection
    domains: StorageDomains
    locations: Locations
    describe: Callable[[str], DomainDescription | None]
    scheduler: ExtensionScheduler
    observers: Executor
    answerers: Executor


@dataclass(frozen=True)
class VolumeStatus:
    """The extender's knowledge of one volume of a running VM.

    `extensions` counts since the VM runs, or since the agent does. `trouble` is why the volume could not be extended
    when that was last due, and `implausible` what libvirt lastingly reports of it that cannot be. `full_domain` is the
    storage domain whose lack of room keeps the guest on this active layer paused.
    """

    extensions: int = 0
    trouble: MigrationError | None = None
    implausible: MigrationError | None = None
    full_domain: str | None = None


class VirtualMachine:
    """All work that may wait for the VM's QEMU is in one mailbox and serial.

    Events have a mailbox of their own, as a busy QEMU lets an observation wait; extensions run in the threads of their
    storage domain. It has a method for whatever may come in: an event, a poll, a question, an extension's end.
    """

    def __init__(self, uuid: str, environment: Environment) -> None:
        """Start with nothing known."""
        self._environment = environment
        self._domain = Domain(environment.connection, uuid)
        self._mailbox = Mailbox(uuid, environment.observers)
        self._events = Mailbox(uuid, environment.answerers)
        self._known = VolumeHistories()
        self._extensions = VmExtensions(uuid, environment.scheduler, self._known, self._follow_extension)
        self._observer = Observer(
            environment.domains, environment.locations, environment.scheduler, self._known, self._extensions
        )
        self.state = RunState()
        """What the last observation found."""

    @property
    def histories(self) -> Histories:
        """What is known of the VM's thin volumes over time, by libvirt's device."""
        return self._known.current()

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is under way for the VM, so that the object may go if the VM does not run."""
        posts = self._mailbox.posts
        is_quiet = self._mailbox.is_idle and self._events.is_idle and not self._extensions.are_under_way()
        # An extension that ended between two of these has posted what follows from it.
        return is_quiet and self._mailbox.posts == posts

    def forget_volumes(self, paths: Iterable[str]) -> None:
        """Forget what came of the extensions of volumes that nobody asks for any more."""
        self._extensions.forget(paths)

    def status_of(self, path: str) -> VolumeStatus | None:
        """Return what is known of the volume at that path; None if it is no volume of this VM."""
        outcome = self._extensions.outcome(path)
        problem = histories.lasting_problems(self._known.current()).get(path)
        full_domain = self.state.waiting_for.get(path)
        if outcome is None and problem is None and full_domain is None:
            return None
        outcome = outcome or Outcome()
        return VolumeStatus(outcome.extensions, outcome.trouble, problem, full_domain)

    def take_event(self, event: DomainEvent) -> None:
        """Extend at once what a threshold event tells of, have the VM observed, and return at once."""
        if isinstance(event, ThresholdPassed):
            target, _, index = event.device.partition("[")
            # libvirt tells of a disk's active layer twice: with its index, and without.
            if index:
                now = time.monotonic()
                self._extensions.disk(target).note_due(now)
                self._events.post(event.device, partial(self._answer, event, now))
            return
        if isinstance(event, LifecycleChanged):
            # A VM that starts again opens its volumes again: no event is answered by what was known.
            self.state.believed = None
        self.observe_soon()

    def take_poll(self, found: DomainStatistics, poll: Polled, specs: Specs) -> None:
        """Have the VM observed unless it is idle by the statistics of a poll, and return at once."""
        now = time.monotonic()
        if not found.has_figures:
            # An observation would wait for a QEMU that is busy or hangs, and nothing is decided without figures.
            return
        idle = self.state.idle
        if idle is not None and idle.still_holds(found, specs, at=now):
            self._known.note_still(at=now)
            return
        description = self._environment.describe(found.uuid)
        self.observe_soon(
            Observation(description, found, poll.asked_at, poll.found_at) if description is not None else None
        )

    def observe_soon(self, offered: Observation | None = None) -> None:
        """Have the VM observed, by what is offered or else by asking libvirt, and return at once."""
        # An observation that asks libvirt finds more than the one that waits, unless that asks as well.
        self._mailbox.post(
            _OBSERVE,
            lambda: self._attempt(lambda: self._observer.observe(self._domain, self.state, offered)),
            replaces=offered is None,
        )

    def reset(self) -> None:
        """Forget what is known of the VM's run, as it has ended."""
        self.state = RunState()
        self._known.clear()
        self._extensions.reset()

    def _answer(self, event: ThresholdPassed, at: float) -> None:
        """Extend the disk of an event without asking QEMU, or else have the VM observed."""
        self._known.note_written(event.device, event.offset_bytes, at=at)
        due: tuple[Extension, ...] = ()
        try:
            disk = self._disk_by_event(event)
            if disk is not None:
                due = disk.plan()
                self._extensions.start(disk, due)
        except MigrationError as error:
            _log.debug("an event is left to the observation", extra={"vm": event.uuid, "error": error.message})
        # A volume that has grown has the VM observed.
        if not due:
            self.observe_soon()

    def _disk_by_event(self, event: ThresholdPassed) -> ThinDisk | None:
        """Return the disk of an event as it is now, without asking QEMU: a busy one lets its statistics wait.

        Which volume is in which place comes from libvirt's live XML, as it may have changed; how large it is, from the
        kernel; how far it is written, from the event; and the rest from the last observation.
        """
        believed = self.state.believed
        if believed is None:
            return None
        target = event.device.partition("[")[0]
        found = believed.written_up_to(event.device, event.offset_bytes)
        locate = self._environment.locations.of_run(event.uuid, found.run)
        disk = disk_by_event(self._domain.describe(), found, locate, target=target)
        return self._known.adapt(disk, self._environment.scheduler.latency.latency) if disk is not None else None

    def _follow_extension(self, volume: OpenVolume, size: int) -> None:
        """Arm the threshold of a volume that has grown, and observe the VM.

        The guest may have gone past the new threshold while it was being armed: such a one never fires.
        """
        arm = partial(self._attempt, partial(self._observer.arm, self._domain, volume, size))
        self._mailbox.post(f"arm {volume.device}", arm, is_urgent=True)
        if not self._environment.scheduler.is_stopping:
            self.observe_soon()

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except DomainGoneError:
            self.reset()
        except MigrationError as error:
            extra = {"vm": self._domain.uuid, "error": error.message}
            _log.warning("the VM's volumes could not be looked after", extra=extra)
