"""One migration from the delegation to its end, in a thread of its own: look, decide, act, and again.

Nothing here is remembered that libvirt and the journal do not know: a worker that starts in the middle goes on.
"""

import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from diskmigration.agent.hypervisor import runs
from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.hypervisor.bounded import ANSWER_SECONDS, BoundedReader
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError, VirtualMachinePausedError
from diskmigration.agent.hypervisor.events import DomainEvent, LifecycleChanged
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration import limits, report
from diskmigration.agent.migration.account import Account
from diskmigration.agent.migration.attempt import Attempt, DiskGoneError, Node
from diskmigration.agent.migration.decision import (
    Elsewhere,
    Place,
    Situation,
    Step,
    acts_on_volumes,
    drops_active_layer,
    is_replication,
    next_step,
    phase_of,
    place_of,
)
from diskmigration.agent.migration.journal import JournalTakenError
from diskmigration.agent.migration.moments import Moment
from diskmigration.agent.migration.steps.begin import begin
from diskmigration.agent.migration.steps.clean_up import clean_up_source, discard_destination
from diskmigration.agent.migration.steps.cold import copy_cold, pivot_cold
from diskmigration.agent.migration.steps.cold_switch import settle_cold_switch
from diskmigration.agent.migration.steps.copy_chain import copy_chain
from diskmigration.agent.migration.steps.find_vm import find_vm
from diskmigration.agent.migration.steps.foreign_change import (
    await_return,
    has_internal_snapshot,
    leave_all,
    leave_snapshot,
    leave_to_others,
)
from diskmigration.agent.migration.steps.lost_track import find_if_lost, follow
from diskmigration.agent.migration.steps.merge import merge_at_destination, merge_back
from diskmigration.agent.migration.steps.pivot import pivot, settle_pivot
from diskmigration.agent.migration.steps.prepare_destination import prepare_destination
from diskmigration.agent.migration.steps.put_back import check_put_back, note_place
from diskmigration.agent.migration.steps.replicate import (
    SAMPLE_SECONDS,
    abort_replication,
    apply_bandwidth,
    measure_replication,
    start_replication,
    switch_copy_mode,
)
from diskmigration.agent.migration.steps.snapshot import forgo_snapshot, take_snapshot
from diskmigration.agent.migration.steps.vanished import settle_vanished
from diskmigration.agent.migration.whereabouts import Whereabouts, of_domain
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.agent.storage.long_command import StoppedError
from diskmigration.api.disk_migration import DiskMigration, Failure, Phase
from diskmigration.api.errors import RETRYABLE, MigrationError, Reason
from diskmigration.api.model import ObjectMeta
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How long to wait for an event before looking anyway."""
_RESUME_SECONDS = 10.0
"""How long to wait for the event that a VM was resumed before the step that needs it is tried anyway."""

ASK_HOSTS_SECONDS = 5.0
"""How long to wait before the other nodes are asked again for a VM: all of them are read for it."""

_SAVED = (
    "The VM was shut off with its memory saved, and what was saved names its disks: nothing is changed. Start it, or "
    "drop what was saved with `virsh managedsave-remove {uuid}`: the migration then goes on."
)

_ACTS = {
    Step.TAKE_SNAPSHOT: take_snapshot,
    Step.FORGO_SNAPSHOT: forgo_snapshot,
    Step.PREPARE_DESTINATION: prepare_destination,
    Step.COPY_CHAIN: copy_chain,
    Step.START_REPLICATION: start_replication,
    Step.DROP_REPLICATION: abort_replication,
    Step.SWITCH_COPY_MODE: switch_copy_mode,
    Step.PIVOT: pivot,
    Step.SETTLE_PIVOT: settle_pivot,
    Step.SETTLE_COLD_SWITCH: settle_cold_switch,
    Step.COPY_COLD: copy_cold,
    Step.PIVOT_COLD: pivot_cold,
    Step.MERGE: merge_at_destination,
    Step.CLEAN_UP_SOURCE: clean_up_source,
    Step.ABORT_REPLICATION: abort_replication,
    Step.MERGE_BACK: merge_back,
    Step.DISCARD_DESTINATION: discard_destination,
}


@dataclass(frozen=True)
class Unanswered:
    """That libvirt or the VM's QEMU does not answer: since when, by the clock of the process, and what is told."""

    at: float
    since: datetime
    message: str

    @classmethod
    def of(cls, error: HypervisorUnavailableError, before: "Unanswered | None") -> "Unanswered":
        """Return it with its newest error; `before` is what it was until now."""
        at, since = (before.at, before.since) if before is not None else (time.monotonic(), datetime.now(UTC))
        return cls(at, since, f"{error.message} This has lasted since {since:%Y-%m-%dT%H:%M:%SZ}.")


class Worker:
    """Runs one DiskMigration. `update`, `notice` and `stop` may be called from any thread."""

    def __init__(self, node: Node, migration: DiskMigration, statuses: StatusWriter) -> None:
        """Nothing starts before `start`."""
        self._node = node
        self._statuses = statuses
        self._latest = migration
        self._object_is_gone = False
        self._vm_uuid: str | None = None
        self._vm_has_left = False
        self._settled_attempt = 0
        self._hosts_said: tuple[float, Whereabouts] | None = None
        self._wake = threading.Event()
        self._vm_has_changed = False
        self._stopping = threading.Event()
        self._attempt: Attempt | None = None
        self._attempt_number = max(migration.status.attempts, 1)
        self._place: Place | None = None
        self._account = Account(migration, statuses)
        self._has_ended = False
        self._reader = BoundedReader(migration.key)
        self._unanswered: Unanswered | None = None
        self._thread = threading.Thread(target=self._run, name=f"migration {migration.key}", daemon=True)

    @property
    def metadata(self) -> ObjectMeta:
        """Return the metadata of its object as it was seen last."""
        return self._latest.metadata

    def start(self) -> None:
        """Starts the worker's thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def has_died(self) -> bool:
        """Whether its thread is gone although neither its migration has ended nor it was told to stop."""
        return not (self._thread.is_alive() or self._has_ended or self._stopping.is_set())

    def stop(self) -> None:
        """Asks the thread to end; the block job in QEMU goes on, and the next agent finds it."""
        self._stopping.set()
        self._wake.set()

    def update(self, migration: DiskMigration) -> None:
        """Takes in the object as it is now."""
        self._latest = migration
        self._statuses.compare(migration)
        self._wake.set()

    def abandon(self) -> None:
        """The object is gone although its migration runs: what it made is cleaned up all the same."""
        self._object_is_gone = True
        self._wake.set()

    def notice(self, event: DomainEvent) -> None:
        """Takes note of something that happened to a VM."""
        if event.uuid == self._vm_uuid:
            self._vm_has_changed = self._vm_has_changed or isinstance(event, LifecycleChanged)
            if isinstance(event, LifecycleChanged) and event.has_left:
                self._vm_has_left = True
            self._wake.set()

    def _run(self) -> None:
        self._account.tell(self._latest, "began to work on the migration")
        while not self._has_ended and not self._stopping.is_set():
            with surviving(self._thread.name, pause=self._wait):
                self._has_ended = self._take_a_round()
        with surviving(self._thread.name, pause=self._wait):
            if self._attempt is not None:
                self._attempt.let_writers_in()
            if self._has_ended:
                self._settle()

    def _take_a_round(self) -> bool:
        """Look, act and take in what failed; True when the migration has ended."""
        try:
            return self._look_act_and_recover()
        except StoppedError:
            return False
        except Exception as error:
            # The handling of a failure asks libvirt and the storage, and may fail as well.
            self._show(self._phase, message=getattr(error, "message", f"Unexpected failure: {error!r}."))
            raise

    def _look_act_and_recover(self) -> bool:
        try:
            return self._look_and_act()
        except (HypervisorUnavailableError, VirtualMachinePausedError) as error:
            self._await_answer(error) if isinstance(error, HypervisorUnavailableError) else self._await_resume(error)
            return False
        except DomainGoneError as error:
            return self._lose_domain(error)
        except DiskGoneError as error:
            return self._lose_disk(error)
        except MigrationError as error:
            return self._fail(error)
        except StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - what nobody foresaw must end in a status, not in silence
            _log.exception("unexpected failure", extra={"migration": self._latest.key, "phase": self._phase})
            return self._fail(
                MigrationError(
                    Reason.INTERNAL_ERROR,
                    f"Unexpected failure: {error!r}. See the agent's log on {self._node.name}.",
                )
            )

    def _look_and_act(self) -> bool:
        """One round; True when the migration has ended."""
        if self._attempt is None:
            self._attempt = self._open()
            if self._attempt is None:
                return self._account.status.phase is not None and self._account.status.phase.is_final
        attempt = self._attempt
        if attempt.journal.outcome is not None:
            return self._finish(attempt)
        self._act(attempt)
        return False

    def _act(self, attempt: Attempt) -> None:
        """Takes the next step."""
        disk, job, run = attempt.look_at_run()
        self._note_answer()
        path = disk.active.path if disk.active is not None else ""
        place = place_of(attempt.journal, path)
        if job is not None and is_replication(attempt.journal, job):
            # Before the time-out is judged: nobody could look while libvirtd was away.
            measure_replication(attempt, job)
        self._take_wishes(attempt)
        is_running = attempt.is_running()
        self._vm_has_left = self._vm_has_left and not is_running
        lost = find_if_lost(attempt, disk, is_running=is_running, has_job=job is not None)
        # Which volume the disk is on is proven first where the XML of a VM that was off was changed.
        is_known = lost is None and attempt.journal.cold_switch is None
        may_be_put_back = is_known and check_put_back(attempt, place, run, is_running=is_running)
        if is_known and not may_be_put_back and place is not Place.FOREIGN:
            self._place = place
            note_place(attempt, place, run, is_running=is_running)
        situation = Situation(
            active_path=path,
            job=job,
            cutover_is_open=attempt.doubt() is None
            and limits.cutover_is_open(self._latest.spec.cutover, now=datetime.now(UTC)),
            was_in_step=attempt.was_in_step,
            falls_behind=attempt.convergence.falls_behind,
            is_running=is_running,
            is_lost=lost is not None,
            is_saved=not is_running and attempt.domain.has_saved_state(),
            has_cold_copy=attempt.has_cold_copy,
            is_put_back=may_be_put_back,
        )
        step = next_step(attempt.journal, situation)
        whereabouts = Whereabouts(Elsewhere.NOWHERE)
        if not is_running and (acts_on_volumes(step) or lost is not None):
            whereabouts = self._ask_hosts(attempt, anew=acts_on_volumes(step))
            step = next_step(attempt.journal, replace(situation, elsewhere=whereabouts.elsewhere))
        if step is Step.AWAIT_END_OF_VM and lost is not None:
            self._show(self._phase, message=follow(attempt, lost, is_running=is_running))
            self._wait(LOOK_SECONDS)
        elif step is Step.AWAIT_RESTORE:
            self._show(self._phase, message=_SAVED.format(uuid=attempt.domain.uuid))
            self._wait(LOOK_SECONDS)
        elif step is Step.AWAIT_OTHER_HOSTS:
            self._show(self._phase, message=whereabouts.message)
            self._wait(ASK_HOSTS_SECONDS)
        elif step is Step.AWAIT_RETURN_OF_VM:
            self._show(self._phase, message=await_return(attempt, whereabouts.message))
            self._wait(ASK_HOSTS_SECONDS)
        elif step is Step.STOP_FOR_FOREIGN_CHANGE:
            self._end_attempt(attempt, leave_to_others(attempt, whereabouts.message))
        elif step is Step.GIVE_UP_FOR_FOREIGN_WORK:
            self._give_up_for_foreign_work(attempt, job)
        else:
            self._take(step, attempt, job)

    def _take(self, step: Step, attempt: Attempt, job: BlockJob | None) -> None:
        self._show(phase_of(step))
        attempt.step = step
        if step is not Step.PIVOT_COLD:
            attempt.let_writers_in()
        attempt.reach(Moment.BEFORE)
        if drops_active_layer(step) and has_internal_snapshot(attempt):
            self._end_attempt(attempt, leave_snapshot(attempt))
            return
        if step is Step.AWAIT_CUTOVER and job is None:
            attempt.meter = attempt.meter.restarted(now=time.monotonic())
            self._wait(LOOK_SECONDS)
        elif step in (Step.AWAIT_SYNC, Step.AWAIT_CUTOVER) and job is not None:
            apply_bandwidth(attempt, job)
            almost_in_step = step is Step.AWAIT_SYNC and job.stays_ready
            self._wait(SAMPLE_SECONDS if almost_in_step else LOOK_SECONDS)
        else:
            _ACTS[step](attempt)
            attempt.note_success()

    def _ask_hosts(self, attempt: Attempt, *, anew: bool) -> Whereabouts:
        """Return where the VM runs; unless `anew`, an answer of a few seconds ago will do."""
        now = time.monotonic()
        if anew or self._hosts_said is None or now > self._hosts_said[0] + ASK_HOSTS_SECONDS:
            self._hosts_said = now, of_domain(attempt.domain, self._node.other_hosts)
        return self._hosts_said[1]

    def _open(self) -> Attempt | None:
        """The attempt in progress, or a new one; None when there is nothing to do (any more)."""
        spec = self._latest.spec
        has_begun = self._latest.status.attempts > self._settled_attempt
        domain, journal = find_vm(self._node, self._latest, has_begun=has_begun, settled_attempt=self._settled_attempt)
        self._vm_uuid = domain.uuid
        if journal is None:
            if limits.wants_cancel(self._latest) or self._object_is_gone:
                self._end(Phase.CANCELLED, Reason.CANCELLED, "Cancelled before anything was touched.")
                return None
            if spec.suspend:
                self._wait(LOOK_SECONDS)
                return None
            if not domain.is_active():
                whereabouts = of_domain(domain, self._node.other_hosts)
                if whereabouts.elsewhere is Elsewhere.UNKNOWN:
                    self._wait(ASK_HOSTS_SECONDS)
                    return None
                if whereabouts.elsewhere is Elsewhere.RUNNING:
                    raise MigrationError(Reason.DISK_BUSY, f"The VM is off on this node. {whereabouts.message}")
            journal = begin(
                self._node,
                domain,
                self._latest,
                attempt=self._attempt_number,
                settled_attempt=self._settled_attempt,
                keep_on=self._keep_on,
                reader=self._reader,
            )
            if journal is None:
                self._end(
                    Phase.SUCCEEDED,
                    Reason.ALREADY_AT_DESTINATION,
                    f"The disk lives in the storage domain {spec.destination.storage_domain} already.",
                )
                return None
        self._attempt_number = journal.attempt
        return Attempt(
            node=self._node,
            domain=domain,
            journal=journal,
            latest=lambda: self._latest,
            keep_on=self._keep_on,
            agent_runs=lambda: not self._stopping.is_set(),
            wait=self._wait,
            on_progress=lambda: self._show(self._phase),
            await_answer=self._await_answer,
            note_answer=self._note_answer,
            meter=self._account.meter_of(journal),
            reader=self._reader,
        )

    def _take_wishes(self, attempt: Attempt) -> None:
        """Turns a wish to stop, or a limit that was passed, into a journal that rolls back; not after the pivot."""
        journal = attempt.journal
        if journal.rolls_back or journal.outcome is not None or self._is_past_pivot():
            return
        if limits.wants_cancel(self._latest) or self._object_is_gone:
            attempt.record(cancelled=True, cancelled_in=self._phase)
            return
        failure = self._passed_limit(attempt)
        if failure is not None:
            attempt.record(failure=failure)

    def _passed_limit(self, attempt: Attempt) -> Failure | None:
        spec = self._latest.spec
        if limits.deadline_has_passed(self._latest, started=self._account.status.start_time, now=datetime.now(UTC)):
            return Failure(
                reason=Reason.DEADLINE_EXCEEDED,
                message=f"It was not done within activeDeadlineSeconds ({spec.active_deadline_seconds} s).",
                phase=self._phase,
            )
        if attempt.meter.is_stuck(now=time.monotonic(), timeout_seconds=spec.progress_timeout_seconds):
            return Failure(
                reason=Reason.NO_PROGRESS,
                message=f"No byte was copied for progressTimeoutSeconds ({spec.progress_timeout_seconds} s). "
                "Look at the destination's storage, or at spec.bandwidth.",
                phase=self._phase,
            )
        return None

    def _keep_on(self) -> bool:
        """For long work: False once the round has to begin again. What was given up already is brought to its end."""
        if self._stopping.is_set():
            return False
        attempt = self._attempt
        if attempt is not None and (attempt.journal.rolls_back or self._is_past_pivot()):
            return True
        if self._object_is_gone or limits.wants_cancel(self._latest):
            return False
        return attempt is None or self._passed_limit(attempt) is None

    def _is_past_pivot(self) -> bool:
        return self._place in (Place.OVERLAY, Place.DESTINATION)

    def _fail(self, error: MigrationError) -> bool:
        """Takes in a failure; True when it is the migration's end."""
        _log.warning(
            "a step failed",
            extra={
                "migration": self._latest.key,
                "phase": self._phase,
                "reason": error.reason,
                "error": error.message,
            },
        )
        attempt = self._attempt
        if attempt is None:
            return self._fail_before_begin(error)
        if isinstance(error, JournalTakenError):
            return self._end(Phase.FAILED, error.reason, f"{error.message} {leave_all(attempt)}")
        if attempt.journal.rolls_back or self._is_past_pivot():
            # The one way left is the one that failed: it is tried again for as long as it takes, and said so.
            attempt.note_failure(error)
            self._show(self._phase, message=error.message)
            self._back_off(attempt, limits.backoff_seconds(attempt.failures))
            return False
        try:
            attempt.record(failure=Failure(reason=error.reason, message=error.message, phase=self._phase))
        except MigrationError as again:
            self._show(self._phase, message=again.message)
            self._wait(LOOK_SECONDS)
        return False

    def _await_answer(self, error: HypervisorUnavailableError) -> None:
        """Wait until libvirtd and QEMU answer, without using up an attempt."""
        self._unanswered = Unanswered.of(error, self._unanswered)
        self._show(self._phase, message=self._unanswered.message)
        self._wait(LOOK_SECONDS)

    def _await_resume(self, error: VirtualMachinePausedError) -> None:
        """Wait until somebody has resumed the VM, without using up an attempt."""
        attempt = self._attempt
        if attempt is not None:
            attempt.awaits_resume = error
            attempt.meter = attempt.meter.restarted(now=time.monotonic())
        self._show(self._phase, message="" if attempt is not None else error.message)
        self._wait(_RESUME_SECONDS)

    def _note_answer(self) -> None:
        """Go on after a time in which nobody could look: no byte was due in it."""
        if self._unanswered is not None and self._attempt is not None:
            now = time.monotonic()
            seconds = now - self._unanswered.at + ANSWER_SECONDS
            self._attempt.meter = self._attempt.meter.excused(seconds, now=now)
        self._unanswered = None

    def _lose_domain(self, error: DomainGoneError) -> bool:
        """The VM was shut off just now, which is looked at, or it is gone with its definition and its journal."""
        attempt = self._attempt
        if attempt is None:
            return self._fail_before_begin(error)
        try:
            attempt.domain.state()
        except DomainGoneError:
            pass
        except MigrationError as unknown:
            # Whether the VM is there decides what becomes of its volumes: nothing is done before that is known.
            self._show(self._phase, message=unknown.message)
            self._wait(LOOK_SECONDS)
            return False
        else:
            self._wait(LOOK_SECONDS)
            return False
        try:
            what = "The VM is gone with its definition."
            message = settle_vanished(attempt, self._place, what=what, has_left=self._vm_has_left)
        except MigrationError as again:
            self._show(self._phase, message=again.message)
            self._wait(limits.backoff_seconds(1))
            return False
        return self._end(Phase.FAILED, Reason.VIRTUAL_MACHINE_STOPPED, message)

    def _fail_before_begin(self, error: MigrationError) -> bool:
        if error.reason in RETRYABLE and self._attempt_number <= self._latest.spec.backoff_limit:
            self._wait_for_next_attempt(error.message)
            return False
        return self._end(Phase.FAILED, error.reason, error.message)

    def _wait_for_next_attempt(self, message: str) -> None:
        delay = limits.backoff_seconds(self._attempt_number)
        self._attempt_number += 1
        until = time.monotonic() + delay
        self._show(self._phase, message=f"Attempt {self._attempt_number} follows. {message}")
        while time.monotonic() < until and not self._stopping.is_set() and not limits.wants_cancel(self._latest):
            self._wait(max(until - time.monotonic(), 0.0))

    def _lose_disk(self, error: DiskGoneError) -> bool:
        """The VM has the disk no more, and its volumes are merged without it."""
        attempt = self._attempt
        if attempt is None:
            return self._fail_before_begin(error)
        try:
            message = settle_vanished(attempt, self._place, what=error.message, has_left=self._vm_has_left)
            self._end_attempt(attempt, message)
        except MigrationError as again:
            self._show(self._phase, message=again.message)
            self._wait(limits.backoff_seconds(1))
        return False

    def _end_attempt(self, attempt: Attempt, message: str) -> None:
        """Somebody else changed the disk, and nothing is left to do."""
        failure = Failure(reason=Reason.FOREIGN_CHANGE, message=message, phase=self._phase)
        attempt.record(failure=failure, outcome=Phase.FAILED)

    def _give_up_for_foreign_work(self, attempt: Attempt, job: BlockJob | None) -> None:
        """Somebody else works on the disk before the pivot: the migration makes way."""
        found = f"is under a foreign block job ({job.kind})" if job is not None else "has lost the migration's snapshot"
        message = (
            f"The disk {attempt.target} {found}, so the migration was given up. The disk stays in the storage domain "
            f"{attempt.source.name}; make a new DiskMigration when nobody else works on it."
        )
        attempt.record(failure=Failure(reason=Reason.FOREIGN_CHANGE, message=message, phase=self._phase))

    def _finish(self, attempt: Attempt) -> bool:
        """Says how it ended, or begins anew where another attempt may help."""
        journal = attempt.journal
        failure = journal.failure
        wants_more = failure is not None and failure.reason in RETRYABLE and not limits.wants_cancel(self._latest)
        if journal.outcome is Phase.FAILED and wants_more and journal.attempt <= self._latest.spec.backoff_limit:
            journals.erase(attempt.domain, journal)
            self._attempt = None
            self._place = None
            self._settled_attempt = journal.attempt
            self._wait_for_next_attempt(failure.message if failure is not None else "")
            return False
        attempt.step = Step.FINISH
        attempt.reach(Moment.BEFORE)
        self._show(Phase.CLEANING_UP)
        retained = report.about_retained(journal)
        if journal.outcome is Phase.SUCCEEDED:
            message = f"The disk lives in the storage domain {attempt.destination.name}.{retained}"
            if limits.wants_cancel(self._latest):
                message += " It could not be cancelled any more: the pivot had happened."
            ending = (Phase.SUCCEEDED, Reason.MIGRATED, message)
        elif failure is not None:
            ending = (Phase.FAILED, failure.reason, failure.message + retained)
        else:
            message = f"The disk stays in the storage domain {attempt.source.name}.{retained}"
            ending = (Phase.CANCELLED, Reason.CANCELLED, message)
        phase, reason, message = ending
        return self._end(phase, reason, " ".join((message, *journal.remarks)))

    def _settle(self) -> None:
        """Erases the journal once the API server has the last word: before that, it is the only place that has it."""
        uid = self._latest.metadata.uid
        while not self._statuses.wait_until_settled(uid, timeout=LOOK_SECONDS):
            if self._stopping.is_set():
                return
        self._statuses.forget(uid)
        if self._attempt is not None:
            self._attempt.reach(Moment.ACTED)
        while self._attempt is not None and not self._stopping.is_set():
            try:
                journals.erase(self._attempt.domain, self._attempt.journal)
                runs.unmark(self._attempt.domain)
            except DomainGoneError:
                return
            except MigrationError as error:
                _log.warning("a journal is not erased yet", extra={"migration": self._latest.key, "error": str(error)})
                self._wait(LOOK_SECONDS)
            else:
                return

    @property
    def _phase(self) -> Phase:
        return self._account.phase

    def _end(self, phase: Phase, reason: Reason, message: str) -> bool:
        """Shows the last status. Always True, for a caller whose migration ends with it."""
        given_up_in = self._attempt.journal.cancelled_in if self._attempt is not None else None
        self._account.end(self._latest, phase, reason, message, given_up_in=given_up_in)
        return True

    def _show(self, phase: Phase, *, message: str = "") -> None:
        """Has the status say where the migration stands; a step that failed and has not ended well since is told of."""
        if not message and self._unanswered is not None:
            message = self._unanswered.message
        if not message and self._attempt is not None:
            trouble = self._attempt.trouble
            message = self._attempt.waiting() or (trouble.message if trouble is not None else "")
        self._account.show(self._latest, self._attempt, phase, is_past_pivot=self._is_past_pivot(), message=message)

    def _back_off(self, attempt: Attempt, seconds: float) -> None:
        """Wait before a step that failed is tried again; only a VM that starts or ends cuts it short.

        A block job that failed has events of its own, and a guest that is full is paused and resumed by it.
        """
        until = time.monotonic() + seconds
        try:
            was_running = attempt.is_running()
            while (left := until - time.monotonic()) > 0 and not self._stopping.is_set():
                self._wait(left)
                if self._vm_has_changed:
                    self._vm_has_changed = False
                    if attempt.is_running() != was_running:
                        return
        except MigrationError:
            # Whatever it is, the next round meets it.
            self._wait(LOOK_SECONDS)

    def _wait(self, seconds: float) -> None:
        """Until something happened, but no longer than that."""
        self._wake.wait(seconds)
        self._wake.clear()
