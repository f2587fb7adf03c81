"""The context of one attempt: the VM, the journal, both storage domains, and what the user wants."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from diskmigration.agent.hypervisor import block_jobs, bounded_calls
from diskmigration.agent.hypervisor.block_jobs import DiskReading
from diskmigration.agent.hypervisor.bounded_calls import LibvirtReader
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.migration import failpoints, volume_access
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration.activity import Operations
from diskmigration.agent.migration.cold_copy import ColdCopy
from diskmigration.agent.migration.convergence import Convergence
from diskmigration.agent.migration.decision import Step
from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.agent.migration.live_status import LiveStatus
from diskmigration.agent.migration.node_services import NodeServices
from diskmigration.agent.migration.progress import LiveMerge, Meter
from diskmigration.agent.migration.unneeded_volumes import UnneededVolume
from diskmigration.agent.storage import qemu_img_process
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import Owner
from diskmigration.agent.storage.long_command import StoppedError
from diskmigration.agent.storage.process_limit import Wait
from diskmigration.api.disk_migration import DiskMigration, RetainedVolume
from diskmigration.api.errors import MigrationError, Reason

_T = TypeVar("_T")

SIDE_BY_SIDE = 3
"""How many volumes of a chain are worked on at once: more would only share the same storage."""


class DiskGoneError(MigrationError):
    """The VM has no such disk any more."""

    def __init__(self, target: str) -> None:
        """`target` is its target device."""
        super().__init__(Reason.FOREIGN_CHANGE, f"The disk {target} was detached from the VM during the migration.")


class MigrationContext:
    """The journal is replaced, never changed in place, and each new one is written to libvirt before it counts.

    The steps see the attempt through this object alone. So it has a method for each thing that they read of the VM,
    have done to it, or ask of the worker.
    """

    def __init__(
        self,
        *,
        node: NodeServices,
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
        operations: Operations,
        reader: LibvirtReader,
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
        self.status = LiveStatus(meter, operations=operations, find_wait=self._wait_for_qemu_img, on_change=on_progress)
        # Told by the status if it takes long; see activity.Operations.
        self.doing = operations.doing
        self._reader = reader
        self.has_replication = False
        self.was_in_step = False
        self.merge: LiveMerge | None = None
        self.convergence = Convergence()
        self.cold_copy = ColdCopy()
        # The destination's volumes that were formatted here, and that nothing was written to since.
        self.fresh: set[str] = set()
        self.measured_ahead: Mapping[str, int] = {}
        self.step = Step.FINISH

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
        self.status.note_wait()
        return self._keep_on()

    def _wait_for_qemu_img(self) -> Wait | None:
        return qemu_img_process.wait_of(Path(volume.path) for volume in self.journal.volumes)

    def keeps_on_at(self, bandwidth: int | None) -> bool:
        """Return whether a copy with that limit goes on: qemu-img cannot change its rate while it runs."""
        return self.keep_on() and self.latest().spec.bandwidth == bandwidth

    def make(self, volume: JournalVolume, home: OpenDomain, size: int) -> None:
        """Make a volume of the migration's own, one that the VM's QEMU can open.

        Raises:
            MigrationError: StorageFailed, VolumeNotAccessible; NoRoomError.
        """
        with self.doing(f"Making the volume {volume.path}"):
            home.driver.create(volume.name, size, self.owner, volume_access.ownership_for(self.journal, volume))
            volume_access.require_openable(self.domain, self.journal, volume, home.driver, self.node.running)

    def keep_destination(self) -> None:
        """Before the guest writes to the destination: from then on it holds what nothing else does."""
        with self.doing(f"Marking the volumes in the storage domain {self.destination.name} as needed"):
            self.destination.driver.keep([volume.name for volume in self.journal.at_destination])

    def remove(self, home: OpenDomain, chain: Sequence[UnneededVolume]) -> tuple[RetainedVolume, ...]:
        """Remove volumes of a chain, top first, and return what was kept, with why; see Remover.

        Raises:
            MigrationError: StorageFailed, HypervisorUnavailable.
        """
        self.node.note_change(self.domain.uuid)
        with self.doing(f"Removing volumes from the storage domain {home.name}"):
            return self.node.remover.remove(home, chain, wait=self.wait, doing=self.doing)

    def record(self, **changes: Any) -> None:
        """Write the journal with these fields changed.

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

        bounded_calls.act(call, doing=f"{doing} (VM {self.domain.uuid})", on_wait=tell)
        self.note_answer()

    def failpoint(self, point: failpoints.Point) -> None:
        """Run what a test has enabled at this point of the current step."""
        failpoints.failpoint(self.step, point)

    def is_running(self) -> bool:
        """Return whether QEMU runs the VM."""
        return self.domain.is_active()

    def require_running(self) -> None:
        """Raise DomainGoneError unless QEMU runs the VM: what was decided on is not so any more."""
        if not self.is_running():
            raise DomainGoneError(f"The VM {self.journal.migration.spec.virtual_machine} was shut off.")

    def disk(self) -> DomainDisk:
        """Return the disk now, from the live XML, or the persistent one of a VM that is off.

        Raises:
            DiskGoneError: it was detached.
        """
        found = self.domain.describe().disk(self.target)
        if found is None:
            raise DiskGoneError(self.target)
        return found

    def active_path(self) -> str:
        """Return the path of the active layer now."""
        active = self.disk().active
        return active.path if active is not None else ""

    def observe(self) -> DiskReading:
        """Return the disk, its block job and the mark of the run of QEMU, all of one moment.

        Raises:
            DiskGoneError: the disk was detached.
            HypervisorUnavailableError: libvirtd or the VM's QEMU does not answer.
        """
        doing = f"looking at the disk {self.target}"
        reading = self.read(doing, partial(block_jobs.read_disk, self.domain, self.target))
        if reading is None:
            raise DiskGoneError(self.target)
        return reading

    def read(self, doing: str, ask: Callable[[], _T]) -> _T:
        """Return what a question to libvirt returns for which it may have to ask QEMU; `doing` is for the message.

        Raises:
            HypervisorUnavailableError: libvirtd or the VM's QEMU does not answer.
        """
        return self._reader.read(ask, doing=f"{doing} (VM {self.domain.uuid})")

    def turn(self) -> AbstractContextManager[None]:
        """Have the turn among the VM's disks for one act, if none of them has it.

        Raises:
            TurnTakenError: one of them has; this worker is woken when it is free again.
        """
        holder = f"{self.target} of DiskMigration {self.journal.migration.key}"
        return self.node.turns.take(self.domain.uuid, holder, wake=self._wake)
