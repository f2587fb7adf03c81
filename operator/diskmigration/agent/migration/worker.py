"""One migration from the delegation to its end, in a thread of its own: look, decide, act, and again.

Nothing here is remembered that libvirt and the journal do not know: a worker that starts in the middle goes on.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from diskmigration import clock
from diskmigration.agent.hypervisor.events import DomainEvent, LifecycleChanged
from diskmigration.agent.migration import limits
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.decision import (
    ActiveLayer,
    DiskObservation,
    Elsewhere,
    Step,
    active_layer_of,
    acts_on_volumes,
    is_replication,
    next_step,
)
from diskmigration.agent.migration.ending import finish, settle
from diskmigration.agent.migration.node_services import NodeServices
from diskmigration.agent.migration.opening import ASK_HOSTS_SECONDS, open_attempt
from diskmigration.agent.migration.recovery import recover
from diskmigration.agent.migration.run import LOOK_SECONDS, Run
from diskmigration.agent.migration.stalled import doubt
from diskmigration.agent.migration.step_runner import take_step
from diskmigration.agent.migration.steps.lost_track import find_if_lost, follow
from diskmigration.agent.migration.steps.put_back import check_put_back, note_layer
from diskmigration.agent.migration.steps.replicate import (
    measure_replication,
)
from diskmigration.agent.migration.whereabouts import Whereabouts, of_domain
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.agent.storage.long_command import StoppedError
from diskmigration.api.disk_migration import DiskMigration
from diskmigration.api.model import ObjectMeta
from diskmigration.observability.loops import surviving


class Worker:
    """Run one DiskMigration. `update`, `abandon`, `notice` and `stop` may be called from any thread.

    What it decides is in decision.py, and what it does in steps/; here are its thread, its rounds and what it is told.
    """

    def __init__(
        self,
        node: NodeServices,
        migration: DiskMigration,
        statuses: StatusWriter,
        *,
        on_end: Callable[[str], None] = lambda _uid: None,
    ) -> None:
        """Nothing starts before `start`. `on_end` is called with the migration's uid when the worker has ended."""
        self._migration = Run(node, migration, statuses)
        self._last_whereabouts: tuple[float, Whereabouts] | None = None
        self._has_ended = False
        self._has_left = False
        self._on_end = on_end
        self._thread = threading.Thread(target=self._work, name=f"migration {migration.key}", daemon=True)

    @property
    def metadata(self) -> ObjectMeta:
        """Return the metadata of its object as it was seen last."""
        return self._migration.latest.metadata

    def start(self) -> None:
        """Start the worker's thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether it still works."""
        return self._thread.is_alive() and not self._has_left

    def has_seen_end(self) -> bool:
        """Return whether the object, as it was seen last, says how the migration ended."""
        phase = self._migration.latest.status.phase
        return phase is not None and phase.is_final

    def has_died(self) -> bool:
        """Return whether its thread is gone although neither its migration has ended nor it was told to stop."""
        return not (self._thread.is_alive() or self._has_ended or self._migration.stopping.is_set())

    def stop(self) -> None:
        """Ask the thread to end; the block job in QEMU goes on, and the next agent finds it."""
        self._migration.stopping.set()
        self._migration.wake.set()

    def update(self, migration: DiskMigration) -> None:
        """Record the object as it is now."""
        self._migration.latest = migration
        self._migration.statuses.compare(migration)
        self._migration.wake.set()

    def abandon(self) -> None:
        """The object is gone although its migration runs: what it made is cleaned up all the same."""
        self._migration.object_is_gone = True
        self._migration.wake.set()

    def notice(self, event: DomainEvent) -> None:
        """Record something that happened to a VM."""
        run = self._migration
        if event.uuid == run.vm_uuid:
            run.vm_has_changed = run.vm_has_changed or isinstance(event, LifecycleChanged)
            if isinstance(event, LifecycleChanged) and event.has_left:
                run.vm_has_left = True
            run.wake.set()

    def show_what_lasts(self) -> None:
        """Have the status say what the thread is in the midst of, if that takes long."""
        self._migration.show_what_lasts()

    def _work(self) -> None:
        run = self._migration
        run.reporter.log_event(run.latest, "began to work on the migration")
        while not self._has_ended and not run.stopping.is_set():
            with surviving(self._thread.name, pause=run.wait):
                self._has_ended = self._take_a_round()
        with surviving(self._thread.name, pause=run.wait):
            if run.context is not None:
                run.context.cold_copy.release()
            if self._has_ended:
                settle(run)
            if self._has_ended and run.context is not None:
                paths = (volume.path for volume in run.context.journal.left_behind)
                run.node.extender.forget_volumes(run.context.domain.uuid, paths)
        self._has_left = True
        self._on_end(run.latest.metadata.uid)

    def _take_a_round(self) -> bool:
        """Look, act and take in what failed; True when the migration has ended."""
        run = self._migration
        try:
            try:
                return self._look_and_act()
            except StoppedError:
                return False
            except Exception as error:  # noqa: BLE001 - what nobody foresaw must end in a status, not in silence
                return self._recover(error)
        except StoppedError:
            return False
        except Exception as error:
            # The handling of a failure asks libvirt and the storage, and may fail as well.
            run.show(run.phase, wait=getattr(error, "message", f"Unexpected failure: {error!r}."))
            raise

    def _recover(self, error: Exception) -> bool:
        return recover(self._migration, error)

    def _look_and_act(self) -> bool:
        """Take one round, and return whether the migration has ended."""
        run = self._migration
        if run.context is None:
            run.context = open_attempt(run)
            if run.context is None:
                return run.reporter.status.phase is not None and run.reporter.status.phase.is_final
        if run.context.journal.outcome is not None:
            return finish(run, run.context)
        self._act(run, run.context)
        return False

    def _act(self, run: Run, context: MigrationContext) -> None:
        """Take the next step."""
        had_left = run.vm_has_left
        seen = context.observe()
        if had_left and seen.is_running:
            # It came back. One that leaves from here on is told of by the event.
            run.vm_has_left = False
        run.note_answer()
        job, is_running = seen.job, seen.is_running
        layer = active_layer_of(context.journal, seen.active_path)
        if job is not None and is_replication(context.journal, job):
            # Before the time-out is judged: nobody could look while libvirtd was away.
            measure_replication(context, job)
        _apply_user_intent(run, context, layer)
        lost = find_if_lost(context, seen.disk, is_running=is_running, has_job=job is not None)
        # Which volume the disk is on is proven first where the XML of a VM that was off was changed.
        is_known = lost is None and context.journal.cold_switch is None
        may_be_put_back = is_known and check_put_back(context, layer, seen.run, is_running=is_running)
        if is_known and not may_be_put_back and layer is not ActiveLayer.FOREIGN:
            run.layer = layer
            note_layer(context, layer, seen.run, is_running=is_running)
        observation = DiskObservation(
            active_path=seen.active_path,
            job=job,
            cutover_is_open=doubt(context) is None and limits.cutover_is_open(run.latest.spec, now=clock.now()),
            was_in_step=context.was_in_step,
            falls_behind=context.convergence.falls_behind,
            is_running=is_running,
            is_lost=lost is not None,
            is_saved=not is_running and context.domain.has_saved_state(),
            has_cold_copy=context.cold_copy.since is not None,
            is_put_back=may_be_put_back,
        )
        step = next_step(context.journal, observation)
        whereabouts = Whereabouts(Elsewhere.NOWHERE)
        if not is_running and (acts_on_volumes(step) or lost is not None):
            whereabouts = self._ask_hosts(run, context, is_fresh=acts_on_volumes(step))
            step = next_step(context.journal, replace(observation, elsewhere=whereabouts.elsewhere))
        if step is Step.AWAIT_END_OF_VM and lost is not None:
            run.show(run.phase, wait=follow(context, lost, is_running=is_running))
            run.wait(LOOK_SECONDS)
        else:
            take_step(run, context, step, job, whereabouts=whereabouts.message)

    def _ask_hosts(self, run: Run, context: MigrationContext, *, is_fresh: bool) -> Whereabouts:
        """Return where the VM runs; unless it has to be fresh, an answer of a few seconds ago will do."""
        now = time.monotonic()
        if is_fresh or self._last_whereabouts is None or now > self._last_whereabouts[0] + ASK_HOSTS_SECONDS:
            self._last_whereabouts = now, of_domain(context.domain, run.node.other_hosts, doing=context.doing)
        return self._last_whereabouts[1]


def _apply_user_intent(run: Run, context: MigrationContext, layer: ActiveLayer) -> None:
    """Turn a wish to stop, or a limit that was passed, into a journal that rolls back; not after the pivot."""
    journal = context.journal
    has_pivoted = run.is_past_pivot or layer in (ActiveLayer.OVERLAY, ActiveLayer.DESTINATION)
    if journal.rolls_back or journal.outcome is not None or has_pivoted:
        return
    if run.is_unwanted:
        context.record(cancelled=True, cancelled_in=run.phase)
        return
    failure = run.passed_limit(context)
    if failure is not None:
        context.record(failure=failure)
