"""The attempt that is under way, or a new one; and what is waited for before there is one."""

import time

from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.migration import limits
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.decision import Elsewhere
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.run import LOOK_SECONDS, Run
from diskmigration.agent.migration.steps.begin import NothingToMove, begin
from diskmigration.agent.migration.steps.find_vm import find_vm
from diskmigration.agent.migration.whereabouts import of_domain
from diskmigration.api.disk_migration import Phase
from diskmigration.api.errors import MigrationError, Reason

ASK_HOSTS_SECONDS = 5.0
"""How long to wait before the other nodes are asked again for a VM: all of them are read for it."""


def open_attempt(run: Run) -> MigrationContext | None:
    """Return the attempt in progress, or a new one; None where it waits, or has ended.

    Raises:
        StoppedError: it was cancelled meanwhile, or has passed its deadline.
        MigrationError: it is refused, or cannot begin yet.
    """
    has_begun = run.latest.status.attempts > run.settled_attempt
    with run.operations.doing("Looking for the VM"):
        domain, journal = find_vm(
            run.node,
            run.latest,
            has_begun=has_begun,
            settled_attempt=run.settled_attempt,
            # The user's changes to the spec count once the VM is known.
            keep_on=lambda: not run.stopping.is_set(),
        )
    run.vm_uuid = domain.uuid
    if journal is None:
        if _ends_or_waits(run, domain):
            return None
        with run.operations.doing(f"Checking whether {run.latest.spec.disk} can be moved"):
            begun = begin(
                run.node,
                domain,
                run.latest,
                attempt=run.attempt_number,
                settled_attempt=run.settled_attempt,
                keep_on=run.keep_on,
                reader=run.reader,
                on_wait=lambda wait: run.show(run.phase, wait=wait),
            )
        if isinstance(begun, NothingToMove):
            run.end(Phase.SUCCEEDED, begun.reason, begun.message)
            return None
        journal = begun
    run.note_answer()
    return _context_of(run, domain, journal)


def _ends_or_waits(run: Run, domain: Domain) -> bool:
    """Return whether no attempt is to begin now; why is shown, and a moment is waited."""
    if run.is_unwanted:
        is_first = not run.settled_attempt
        when = "before anything was touched" if is_first else "between two attempts: the disk stays where it is"
        run.end(Phase.CANCELLED, Reason.CANCELLED, f"Cancelled {when}.")
    elif (late := run.passed_deadline()) is not None:
        run.end(Phase.FAILED, late.reason, late.message)
    elif run.latest.spec.suspend:
        run.show(run.phase, wait="It waits, as spec.suspend is true.")
        run.wait(LOOK_SECONDS)
    elif not domain.is_active():
        return _waits_for_hosts(run, domain)
    else:
        return False
    return True


def _waits_for_hosts(run: Run, domain: Domain) -> bool:
    """Return whether it is not known yet that a VM that is off here does not run on another node.

    Raises:
        MigrationError: DiskBusy, it does.
    """
    whereabouts = of_domain(domain, run.node.other_hosts, doing=run.operations.doing)
    if whereabouts.elsewhere is Elsewhere.RUNNING:
        raise MigrationError(Reason.DISK_BUSY, f"The VM is off on this node. {whereabouts.message}")
    if whereabouts.elsewhere is Elsewhere.NOWHERE:
        return False
    run.show(run.phase, wait=whereabouts.message)
    run.wait(ASK_HOSTS_SECONDS)
    return True


def _context_of(run: Run, domain: Domain, journal: Journal) -> MigrationContext:
    run.attempt_number = journal.attempt
    return MigrationContext(
        node=run.node,
        domain=domain,
        journal=journal,
        latest=lambda: run.latest,
        keep_on=run.keep_on,
        agent_runs=lambda: not run.stopping.is_set(),
        wait=run.wait,
        wake=run.wake.set,
        on_progress=lambda: run.show(run.phase),
        await_answer=run.await_answer,
        note_answer=run.note_answer,
        meter=run.reporter.meter_of(journal),
        operations=run.operations,
        reader=run.reader,
    )


def wait_for_next_attempt(run: Run, message: str) -> None:
    """Wait before the next attempt, which is not begun yet: it may be cancelled, and its deadline may pass."""
    delay = limits.BACKOFF.seconds(run.attempt_number)
    run.attempt_number += 1
    until = time.monotonic() + delay
    run.show(run.phase, wait=f"Attempt {run.attempt_number} follows within {delay:.0f} s. {message}")
    while (left := until - time.monotonic()) > 0 and run.keep_on():
        run.wait(min(left, LOOK_SECONDS))
