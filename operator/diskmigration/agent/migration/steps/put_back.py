"""A VM whose definition was replaced by an older one: its XML names a volume that the guest had left."""

from diskmigration.agent.hypervisor import runs
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.decision import ActiveLayer, is_put_back, newly_known, volume_in_doubt
from diskmigration.agent.migration.last_writes import may_hold_writes


def check_put_back(context: MigrationContext, layer: ActiveLayer, run: str | None, *, is_running: bool) -> bool:
    """Return whether another volume of the migration holds, or may hold, what the guest wrote last.

    `run` is the mark of the QEMU that runs now, None if it has none.

    Raises:
        StoppedError: it is not known yet.
        MigrationError: StorageFailed.
    """
    journal = context.journal
    is_same_run = run is not None and run == journal.run
    if is_put_back(journal, layer, is_running=is_running, is_same_run=is_same_run):
        return True
    doubtful = volume_in_doubt(journal, layer, is_same_run=is_same_run)
    if doubtful is None:
        return False
    home = context.source if doubtful == journal.snapshot else context.destination
    with context.doing(f"Finding out whether the guest wrote last to {doubtful.path}"):
        return may_hold_writes(journal, home, doubtful, keep_on=context.keep_on)


def note_layer(context: MigrationContext, layer: ActiveLayer, run: str | None, *, is_running: bool) -> None:
    """Note in the journal what the active layer tells, and the run of QEMU in which it was seen there.

    Raises:
        HypervisorUnavailableError, DomainGoneError: nothing was noted.
    """
    journal = context.journal
    known = newly_known(journal, layer, is_same_run=run is not None and run == journal.run)
    if run is not None and run != journal.run:
        context.record(**known, run=run)
        return
    if known:
        context.record(**known)
    if is_running and run is None:
        # It is noted at the next look: until then the VM may have been started again, with another XML.
        runs.mark(context.domain)
