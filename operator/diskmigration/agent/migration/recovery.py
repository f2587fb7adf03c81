"""Recover from what a round has raised: try again, give up, or end the migration, and say so."""

import logging
import time

from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError, VirtualMachinePausedError
from diskmigration.agent.migration import limits
from diskmigration.agent.migration.context import DiskGoneError, MigrationContext
from diskmigration.agent.migration.ending import end_attempt
from diskmigration.agent.migration.journal import JournalTakenError
from diskmigration.agent.migration.opening import wait_for_next_attempt
from diskmigration.agent.migration.run import LOOK_SECONDS, Run
from diskmigration.agent.migration.steps.foreign_change import leave_all
from diskmigration.agent.migration.steps.vanished import settle_vanished
from diskmigration.agent.migration.turns import TurnTakenError
from diskmigration.api.disk_migration import Failure, Phase
from diskmigration.api.errors import RETRYABLE, MigrationError, Reason

_log = logging.getLogger(__name__)

_PASSES = frozenset({Reason.STORAGE_DOMAIN_NOT_READY, Reason.STORAGE_DOMAIN_NOT_FOUND})
"""An attempt that has touched nothing waits until these pass: outages of the storage, and a watch that is behind."""
_PASSES_SECONDS = 2.0
_RESUME_SECONDS = 10.0
"""How long to wait for the event that a VM was resumed before the step that needs it is tried anyway."""


def recover(run: Run, error: Exception) -> bool:
    """Take in what a round has raised; True when it is the migration's end.

    Raises:
        Exception: the handling itself has failed.
    """
    if isinstance(error, TurnTakenError):
        run.show(run.phase, wait=error.activity)
        run.wait(LOOK_SECONDS)
    elif isinstance(error, HypervisorUnavailableError):
        run.await_answer(error)
    elif isinstance(error, VirtualMachinePausedError):
        _await_resume(run, error)
    elif isinstance(error, DomainGoneError):
        return _lose_domain(run, error)
    elif isinstance(error, DiskGoneError):
        return _lose_disk(run, error)
    else:
        return _fail(run, error if isinstance(error, MigrationError) else _unforeseen(run, error))
    return False


def _unforeseen(run: Run, error: Exception) -> MigrationError:
    extra = {"migration": run.latest.key, "phase": run.phase}
    _log.error("unexpected failure", exc_info=error, extra=extra)
    return MigrationError(
        Reason.INTERNAL_ERROR, f"Unexpected failure: {error!r}. See the agent's log on {run.node.name}."
    )


def _await_resume(run: Run, error: VirtualMachinePausedError) -> None:
    """Wait until somebody has resumed the VM, without using up an attempt."""
    context = run.context
    if context is not None:
        context.status.awaits_resume = error
        context.status.note_beat()
    run.show(run.phase, wait=error.message if context is None else None)
    run.wait(_RESUME_SECONDS)


def _fail(run: Run, error: MigrationError) -> bool:
    _log.warning(
        "a step failed",
        extra={"migration": run.latest.key, "phase": run.phase, "reason": error.reason, "error": error.message},
    )
    context = run.context
    if context is None:
        return _fail_before_begin(run, error)
    if isinstance(error, JournalTakenError):
        return run.end(Phase.FAILED, error.reason, f"{error.message} {leave_all(context)}")
    if context.journal.rolls_back or run.is_past_pivot:
        # The one way left is the one that failed: it is tried again for as long as it takes, and said so.
        _retry(run, context, error)
        return False
    try:
        context.record(failure=Failure(reason=error.reason, message=error.message, phase=run.phase))
    except MigrationError as again:
        _show_obstacle(run, again)
    return False


def _show_obstacle(run: Run, error: MigrationError) -> None:
    if isinstance(error, HypervisorUnavailableError):
        run.await_answer(error)
        return
    run.show(run.phase, wait=error.message)
    run.wait(LOOK_SECONDS)


def _fail_before_begin(run: Run, error: MigrationError) -> bool:
    if error.reason in _PASSES:
        # The operator treats one that waits for its turn alike: only its deadline ends it.
        run.show(run.phase, wait=error.message)
        run.wait(_PASSES_SECONDS)
        return False
    if error.reason in RETRYABLE and run.attempt_number <= run.latest.spec.backoff_limit:
        wait_for_next_attempt(run, error.message)
        return False
    return run.end(Phase.FAILED, error.reason, error.message)


def _lose_domain(run: Run, error: DomainGoneError) -> bool:
    """Look again at a VM that was shut off just now, or settle one that is gone with its definition and its journal."""
    context = run.context
    if context is None:
        return _fail_before_begin(run, error)
    try:
        context.domain.state()
    except DomainGoneError:
        pass
    except MigrationError as unknown:
        # Whether the VM is there decides what becomes of its volumes: nothing is done before that is known.
        _retry(run, context, unknown)
        return False
    else:
        run.wait(LOOK_SECONDS)
        return False
    try:
        what = "The VM is gone with its definition."
        message = settle_vanished(context, run.layer, what=what, has_left=run.vm_has_left)
    except MigrationError as again:
        _retry(run, context, again)
        return False
    return run.end(Phase.FAILED, Reason.VIRTUAL_MACHINE_STOPPED, message)


def _lose_disk(run: Run, error: DiskGoneError) -> bool:
    """Settle a disk that the VM has no more: its volumes are merged without it."""
    context = run.context
    if context is None:
        return _fail_before_begin(run, error)
    try:
        message = settle_vanished(context, run.layer, what=error.message, has_left=run.vm_has_left)
        end_attempt(run, context, message)
    except MigrationError as again:
        _retry(run, context, again)
    return False


def _retry(run: Run, context: MigrationContext, error: MigrationError) -> None:
    """Show what has failed that must be done, and wait ever longer before it is tried again.

    From the second failure in a row on the migration is stalled.
    """
    if isinstance(error, HypervisorUnavailableError):
        run.await_answer(error)
        return
    context.status.note_failure(error)
    run.show(run.phase)
    back_off(run, context, limits.BACKOFF.seconds(context.status.failures))


def back_off(run: Run, context: MigrationContext, seconds: float) -> None:
    """Wait before a step that failed is tried again; only a VM that starts or ends cuts it short.

    A block job that failed has events of its own, and a guest that is full is paused and resumed by it.
    """
    until = time.monotonic() + seconds
    try:
        was_running = _is_running(context)
        while (left := until - time.monotonic()) > 0 and not run.stopping.is_set():
            run.wait(left)
            if run.vm_has_changed:
                run.vm_has_changed = False
                if _is_running(context) != was_running:
                    return
    except MigrationError:
        # Whatever it is, the next round meets it.
        run.wait(LOOK_SECONDS)


def _is_running(context: MigrationContext) -> bool:
    try:
        return context.is_running()
    except DomainGoneError:
        return False
