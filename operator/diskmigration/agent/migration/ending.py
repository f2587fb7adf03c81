"""How an attempt ends: another one follows, or the last status is shown and the journal goes."""

import logging

from diskmigration.agent.hypervisor import runs
from diskmigration.agent.hypervisor.block_jobs import BlockJob
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration import limits, status
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.decision import Step
from diskmigration.agent.migration.opening import wait_for_next_attempt
from diskmigration.agent.migration.run import LOOK_SECONDS, Run
from diskmigration.api.disk_migration import Failure, Phase
from diskmigration.api.errors import RETRYABLE, MigrationError, Reason

_log = logging.getLogger(__name__)


def end_attempt(run: Run, context: MigrationContext, message: str) -> None:
    """Note that somebody else changed the disk, and nothing is left to do."""
    failure = Failure(reason=Reason.FOREIGN_CHANGE, message=message, phase=run.phase)
    context.record(failure=failure, outcome=Phase.FAILED)


def give_up_for_foreign_work(run: Run, context: MigrationContext, job: BlockJob | None) -> None:
    """Make way for somebody else who works on the disk before the pivot."""
    found = f"is under a foreign block job ({job.kind})" if job is not None else "has lost the migration's snapshot"
    message = (
        f"The disk {context.target} {found}, so the migration was given up. The disk stays in the storage domain "
        f"{context.source.name}; make a new DiskMigration when nobody else works on it."
    )
    context.record(failure=Failure(reason=Reason.FOREIGN_CHANGE, message=message, phase=run.phase))


def finish(run: Run, context: MigrationContext) -> bool:
    """Say how it ended, or wait for the next attempt where another one may help; True when it has ended."""
    journal = context.journal
    failure = journal.failure
    wants_more = failure is not None and failure.reason in RETRYABLE and not limits.wants_cancel(run.latest)
    if journal.outcome is Phase.FAILED and wants_more and journal.attempt <= run.latest.spec.backoff_limit:
        journals.erase(context.domain, journal)
        run.context = None
        run.layer = None
        run.settled_attempt = journal.attempt
        wait_for_next_attempt(run, failure.message if failure is not None else "")
        return False
    context.step = Step.FINISH
    context.failpoint("before")
    run.note_step(context, Step.FINISH)
    retained = status.about_retained(journal)
    if journal.outcome is Phase.SUCCEEDED:
        message = f"The disk lives in the storage domain {context.destination.name}.{retained}"
        if limits.wants_cancel(run.latest):
            message += " It could not be cancelled any more: the pivot had happened."
        ending = (Phase.SUCCEEDED, Reason.MIGRATED, message)
    elif failure is not None:
        ending = (Phase.FAILED, failure.reason, failure.message + retained)
    else:
        message = f"The disk stays in the storage domain {context.source.name}.{retained}"
        ending = (Phase.CANCELLED, Reason.CANCELLED, message)
    phase, reason, message = ending
    return run.end(phase, reason, " ".join((message, *journal.remarks)))


def settle(run: Run) -> None:
    """Erase the journal once the API server has the last word: before that, it is the only place that has it."""
    uid = run.latest.metadata.uid
    while not run.statuses.wait_until_settled(uid, timeout=LOOK_SECONDS):
        if run.stopping.is_set():
            return
    run.statuses.forget(uid)
    if run.context is not None:
        run.context.failpoint("acted")
    while run.context is not None and not run.stopping.is_set():
        try:
            journals.erase(run.context.domain, run.context.journal)
            runs.unmark(run.context.domain)
        except DomainGoneError:
            return
        except MigrationError as error:
            _log.warning("a journal is not erased yet", extra={"migration": run.latest.key, "error": str(error)})
            run.wait(LOOK_SECONDS)
        else:
            return
