"""One attempt at a migration as its steps see it: the VM, the journal, both storage domains, and what is wished."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from diskmigration.agent import metrics
from diskmigration.agent.extender.service import Extender
from diskmigration.agent.extender.watermark import largest_useful_size
from diskmigration.agent.hypervisor import block_jobs, bounded, statistics
from diskmigration.agent.hypervisor.bounded import BoundedReader
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.hypervisor.starts import StartCount, Starts
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration import moments, volume_access
from diskmigration.agent.migration.convergence import Convergence
from diskmigration.agent.migration.decision import Step
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.progress import MergeProgress, Meter
from diskmigration.agent.migration.removal import Doomed, Remover
from diskmigration.agent.migration.turns import Turns
from diskmigration.agent.other_hosts import OtherHosts
from diskmigration.agent.storage import image_locks, qemu_img, qemu_img_process
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import NoRoomError, Owner, StorageDriver
from diskmigration.agent.storage.long_command import StoppedError
from diskmigration.agent.storage.process_limit import Wait
from diskmigration.api.disk_migration import DiskMigration, RetainedVolume, VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_T = TypeVar("_T")

SIDE_BY_SIDE = 3
"""How many volumes of a chain are worked on at once: more would only share the same storage."""


class DiskGoneError(MigrationError):
    """The VM has no such disk any more."""

    def __init__(self, target: str) -> None:
        """`target` is its target device."""
        super().__init__(Reason.FOREIGN_CHANGE, f"The disk {target} was detached from the VM during the migration.")


@contextmanager
def lacking_room(reason: Reason) -> Iterator[None]:
    """Says whose room is missing: SourceFull or DestinationFull, as the caller knows."""
    try:
        yield
    except NoRoomError as error:
        raise MigrationError(reason, error.message) from error


@dataclass(frozen=True)
class Node:
    """What all migrations on this node share."""

    name: str
    connection: Connection
    domains: StorageDomains
    extender: Extender
    other_hosts: OtherHosts
    remover: Remover
    starts: Starts
    turns: Turns = field(default_factory=Turns)


@dataclass(frozen=True)
class Mark:
    """A moment in the life of a volume of a VM that is off: the VM's starts and the writes to the volume until then.

    Either is None where it is not known. See migration/disturbance.py.
    """

    starts: StartCount | None
    writes: str | None


class Attempt:
    """The journal is replaced, never changed in place, and each new one is written to libvirt before it counts."""

    def __init__(
        self,
        *,
        node: Node,
        domain: Domain,
        journal: Journal,
        latest: Callable[[], DiskMigration],
        keep_on: Callable[[], bool],
        agent_runs: Callable[[], bool],
        wait: Callable[[float], None],
        wake: Callable[[], None],
        on_progress: Callable[[], None],
        await_answer: Callable[[HypervisorUnavailableError], None],
        note_answer: Callable[[], None],
        meter: Meter,
        reader: BoundedReader,
    ) -> None:
        """`latest` is the object as last seen; `keep_on` is False once the migration should look around again.

        `wait` waits for so many seconds, or until `wake` is called.
        `await_answer` shows that libvirt or QEMU does not answer, and waits a moment; `note_answer` ends that.
        `agent_runs` is for what must be done whatever the user wishes: it is False once the agent ends.
        """
        self.node = node
        self.domain = domain
        self.journal = journal
        self.latest = latest
        self._keep_on = keep_on
        self.agent_runs = agent_runs
        self.wait = wait
        self._wake = wake
        self.await_answer = await_answer
        self.note_answer = note_answer
        self.meter = meter
        self._reader = reader
        self.has_replication = False
        self.was_in_step = False
        # What the status says of a step that takes long, or nothing.
        self.activity = ""
        self.has_merge = False
        # What it was last limited to; somebody else may have changed that since, and means it.
        self.merge_bandwidth: int | None = None
        self._merge_progress = MergeProgress()
        self.convergence = Convergence()
        self.cold_copy_mark: Mark | None = None
        # Why a step waits until somebody resumes the VM.
        self.awaits_resume: MigrationError | None = None
        # The destination's volumes that were formatted here, and that nothing was written to since.
        self.fresh: set[str] = set()
        self.measured_ahead: Mapping[str, int] = {}
        self._locks = ExitStack()
        self.keeps_writers_out = False
        self.step = Step.FINISH
        self.failures = 0
        self.trouble: MigrationError | None = None
        self._on_progress = on_progress
        # Copies, side by side, take their readings in threads of their own.
        self._guard = threading.Lock()
        self._shown_wait = ""

    @property
    def target(self) -> str:
        """The disk's target device."""
        return self.journal.migration.spec.disk

    @property
    def source(self) -> OpenDomain:
        """The source's storage domain."""
        return self.node.domains.adopt(self.journal.source_domain)

    @property
    def destination(self) -> OpenDomain:
        """The destination's storage domain."""
        return self.node.domains.adopt(self.journal.destination_domain)

    @property
    def owner(self) -> Owner:
        """For whom volumes are made."""
        return Owner(migration=self.journal.uid, virtual_machine=self.domain.uuid, node=self.node.name)

    def keep_on(self) -> bool:
        """Return whether long work goes on, which asks for it several times a second, or waits for its turn to run."""
        wait = self._wait_for_qemu_img()
        message = wait.message if wait is not None else ""
        if wait is not None and wait.is_idle:
            self.note_beat()
        with self._guard:
            has_changed, self._shown_wait = message != self._shown_wait, message
        if has_changed:
            self._on_progress()
        return self._keep_on()

    def waiting(self) -> str:
        """Return what the status says of work that waits, or ""."""
        wait = self._wait_for_qemu_img()
        return wait.message if wait is not None else ""

    def _wait_for_qemu_img(self) -> Wait | None:
        return qemu_img_process.wait_of(Path(volume.path) for volume in self.journal.volumes)

    def keeps_on_at(self, bandwidth: int | None) -> bool:
        """Whether a copy that was begun with that limit goes on: qemu-img cannot change its rate while it runs."""
        return self.keep_on() and self.latest().spec.bandwidth == bandwidth

    def doubt(self) -> MigrationError | None:
        """What is reported of one of the migration's volumes that cannot be; None where all is well."""
        doubts = (self.node.extender.status_of(volume.path).implausible for volume in self.journal.volumes)
        return next((doubt for doubt in doubts if doubt is not None), None)

    def note_failure(self, error: MigrationError) -> None:
        """A step that has to end well some time has failed: the status tells of it until it does."""
        self.failures += 1
        self.trouble = error
        self.forget_activity()

    def note_success(self) -> None:
        """A step has ended well."""
        self.awaits_resume = None
        self.failures = 0
        self.trouble = None
        self.forget_activity()

    def forget_activity(self) -> None:
        """What a step told of itself is over."""
        self.activity = ""
        self._merge_progress = MergeProgress()

    def stalled(self) -> MigrationError | None:
        """What somebody has to look at before the migration can go on, or None. A step may fail once by chance."""
        repeated = self.trouble if self.failures > 1 else None
        return self.doubt() or self.lack_of_room() or self.awaits_resume or repeated

    def lack_of_room(self) -> MigrationError | None:
        """Why the guest stands still, where that is for want of room in either storage domain; else None."""
        for reason, volumes in (
            (Reason.SOURCE_FULL, self.journal.at_source),
            (Reason.DESTINATION_FULL, self.journal.at_destination),
        ):
            for volume in volumes:
                if (domain := self.node.extender.status_of(volume.path).full_domain) is not None:
                    return MigrationError(
                        reason,
                        f"The guest is paused: it wrote to {volume.path}, and the storage domain {domain} is full. "
                        "Free some room in it: the guest goes on as soon as there is some.",
                    )
        return None

    def make(self, volume: JournalVolume, home: OpenDomain, size: int) -> None:
        """Make a volume of the migration's own, one that the VM's QEMU can open.

        Raises:
            MigrationError: StorageFailed, VolumeNotAccessible; NoRoomError.
        """
        home.driver.create(volume.name, size, self.owner, volume_access.ownership_for(self.journal, volume))
        volume_access.require_openable(self.domain, self.journal, volume, home.driver)

    def keep_destination(self) -> None:
        """Before the guest writes to the destination: from then on it holds what nothing else does."""
        self.destination.driver.keep([volume.name for volume in self.journal.at_destination])

    def remove(self, home: OpenDomain, chain: Sequence[Doomed]) -> tuple[RetainedVolume, ...]:
        """Remove volumes of a chain, top first, and return what was kept, with why; see Remover.

        Raises:
            MigrationError: StorageFailed, HypervisorUnavailable.
        """
        return self.node.remover.remove(home, chain, wait=self.wait)

    def record(self, **changes: Any) -> None:
        """Writes the journal with these fields changed.

        Raises:
            HypervisorUnavailableError, DomainGoneError: nothing was written, and nothing counts.
        """
        changed = Journal.model_validate({**dict(self.journal), **changes})
        self.act(f"writing the journal of {self.target}", partial(journals.write, self.domain, changed))
        self.journal = changed

    def act(self, doing: str, call: Callable[[], None]) -> None:
        """Have libvirt do something to the disk, and show it if that takes long; `doing` is for the message.

        Raises:
            StoppedError: the agent ends. What was asked may happen all the same.
            MigrationError: what `call` raises.
        """

        def tell(error: HypervisorUnavailableError) -> None:
            if not self.agent_runs():
                raise StoppedError from error
            self.await_answer(error)

        bounded.act(call, doing=f"{doing} (VM {self.domain.uuid})", on_wait=tell)
        self.note_answer()

    def reach(self, moment: Moment) -> None:
        """Says where the step is, for whoever listens."""
        moments.reach(self.step, moment)

    def is_running(self) -> bool:
        """Whether QEMU runs the VM."""
        return self.domain.is_active()

    def require_running(self) -> None:
        """Raises DomainGoneError unless QEMU runs the VM: what was decided on is not so any more."""
        if not self.is_running():
            raise DomainGoneError(f"The VM {self.journal.migration.spec.virtual_machine} was shut off.")

    @property
    def has_cold_copy(self) -> bool:
        """Whether the whole disk was copied while the VM was off; what was written to its source since is not known."""
        return self.cold_copy_mark is not None

    def keep_writers_out(self) -> None:
        """Let no QEMU write to the mirrored volume until `let_writers_in`, if it is a file.

        Raises:
            ImageInUseError: somebody does.
            MigrationError: VirtualMachineNotRunning, where it cannot be locked; StorageFailed.
        """
        self.let_writers_in()
        self._locks.enter_context(image_locks.writers_kept_out(Path(self.journal.mirrored.path)))
        self.keeps_writers_out = True

    def let_writers_in(self) -> None:
        """From now on a VM may start, and what was copied of its active layer is nothing to go by any more."""
        self._locks.close()
        self.keeps_writers_out = False
        self.cold_copy_mark = None

    def disk(self) -> DomainDisk:
        """The disk now, from the live XML, or the persistent one of a VM that is off.

        Raises:
            DiskGoneError: it was detached.
        """
        found = self.domain.describe().disk(self.target)
        if found is None:
            raise DiskGoneError(self.target)
        return found

    def active_path(self) -> str:
        """The path of the active layer now."""
        active = self.disk().active
        return active.path if active is not None else ""

    def look(self) -> tuple[DomainDisk, block_jobs.BlockJob | None]:
        """The disk and its block job at one moment; a VM that is off has no job.

        Raises:
            DiskGoneError: the disk was detached.
            HypervisorUnavailableError: libvirtd or the VM's QEMU does not answer.
        """
        disk, job, _ = self.look_at_run()
        return disk, job

    def look_at_run(self) -> tuple[DomainDisk, block_jobs.BlockJob | None, str | None]:
        """Return the disk, its block job and the mark of the run of QEMU, all of one moment.

        Raises:
            DiskGoneError: the disk was detached.
            HypervisorUnavailableError: libvirtd or the VM's QEMU does not answer.
        """
        return self.read(f"looking at the disk {self.target}", self._look_at_run)

    def read(self, doing: str, ask: Callable[[], _T]) -> _T:
        """Return what a question to libvirt returns for which it may have to ask QEMU; `doing` is for the message.

        Raises:
            HypervisorUnavailableError: libvirtd or the VM's QEMU does not answer.
        """
        return self._reader.read(ask, doing=f"{doing} (VM {self.domain.uuid})")

    def _look_at_run(self) -> tuple[DomainDisk, block_jobs.BlockJob | None, str | None]:
        description = self.domain.describe()
        while True:
            disk = description.disk(self.target)
            if disk is None:
                raise DiskGoneError(self.target)
            job = block_jobs.current(self.domain, disk) if self.is_running() else None
            # Between the two a job may have begun or ended.
            before, description = description, self.domain.describe()
            if (disk, before.run) == (description.disk(self.target), description.run):
                return disk, job, description.run

    def written_since_open(self, volume: JournalVolume) -> int:
        """The highest offset that QEMU has written to the active layer since it opened it, in bytes.

        Raises:
            HypervisorUnavailableError: libvirt does not tell.
        """
        found = self.read(f"asking how far {volume.path} is written", partial(statistics.of_domain, self.domain))
        layer = found.layer(volume.path, self.target)
        if layer is None or layer.allocated_bytes is None:
            raise HypervisorUnavailableError(
                f"libvirt does not tell how far {volume.path} is written: its QEMU is busy. It is asked again."
            )
        return layer.allocated_bytes

    def held_at_most(self, volume: JournalVolume, driver: StorageDriver) -> int:
        """An upper bound of what a qcow2 copy of a volume that is being written to holds, in bytes.

        A raw file has holes, which a mirror skips; a block device shows none, so the mirror copies all of it.
        """
        if volume.format is VolumeFormat.QCOW2:
            return driver.size_bytes(volume.name)
        if volume.type is not StorageType.FILE:
            return largest_useful_size(driver.size_bytes(volume.name))
        # Blocks that were allocated ahead hold nothing, and a mirror skips them like holes.
        measured = qemu_img.measure((volume.image,), target=VolumeFormat.QCOW2, keep_on=self.keep_on).required_bytes
        return min(largest_useful_size(driver.allocated_bytes(volume.name)), measured)

    def measure(self, *, now: float, copied: int, total: int) -> None:
        """Takes in a reading: bytes over the whole move."""
        with self._guard:
            before = self.meter.copied
            self.meter = self.meter.advanced(now=now, copied=copied, total=total)
            metrics.COPIED_BYTES.inc(self.meter.copied - before)

    def note_beat(self) -> None:
        """Record that something was read or written, or that nothing is due: the copy is not stuck."""
        with self._guard:
            self.meter = self.meter.restarted(now=time.monotonic())

    def show_progress(self, *, now: float, copied: int, total: int) -> None:
        """Takes in a reading and passes it on."""
        self.measure(now=now, copied=copied, total=total)
        self._on_progress()

    def turn(self) -> AbstractContextManager[None]:
        """Have the turn among the VM's disks for one act, if none of them has it.

        Raises:
            TurnTakenError: one of them has; this worker is woken when it is free again.
        """
        holder = f"{self.target} of DiskMigration {self.journal.migration.key}"
        return self.node.turns.take(self.domain.uuid, holder, wake=self._wake)

    def show_activity(self, activity: str) -> None:
        """Have the status say what a step that takes long does, until it has ended or failed."""
        if activity != self.activity:
            self.activity = activity
            self._on_progress()

    def show_merge(
        self, overlay: str, base: str, *, share: float | None = None, copied: int = 0, total: int = 0
    ) -> None:
        """Pass on how far a merge is: the `share` that is done, or bytes; QEMU has no total before it has looked."""
        is_known = total > 1
        self._merge_progress = self._merge_progress.advanced(
            now=time.monotonic(),
            what=f"Merging {overlay} into {base}",
            since=self.journal.merge_since,
            share=copied / total if is_known else share,
            copied=copied,
            total=total if is_known else 0,
        )
        self.show_activity(self._merge_progress.message)
