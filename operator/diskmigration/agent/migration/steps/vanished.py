"""The VM is gone with its definition while it migrates, or the disk is: leave it in one place, whole, and say where."""

from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.decision import ActiveLayer, Elsewhere
from diskmigration.agent.migration.last_writes import is_there
from diskmigration.agent.migration.steps.cold_merge import merge_cold
from diskmigration.agent.migration.steps.foreign_change import leave_all
from diskmigration.agent.migration.steps.lost_track import find_lost_process
from diskmigration.agent.migration.unneeded_volumes import own
from diskmigration.agent.migration.whereabouts import of_uuid
from diskmigration.api.disk_migration import RetainedVolume
from diskmigration.api.errors import MigrationError, Reason


def settle_vanished(context: MigrationContext, layer: ActiveLayer | None, *, what: str, has_left: bool) -> str:
    """Merge what is a chain of ours, remove what nobody needs, and return what to tell the user.

    `layer` is where the disk was last seen, `what` a sentence that says what happened; `has_left` tells that the VM was
    migrated away. All is kept where the VM runs on another node, where another definition names one of the volumes, and
    during a pivot, when nobody can tell which side has the last writes.

    Raises:
        MigrationError: MergeFailed, StorageFailed; nothing was removed that was not merged, nor while its QEMU runs.
            HypervisorUnavailable: where the VM runs cannot be told yet.
    """
    journal = context.journal
    whereabouts = of_uuid(context.domain.uuid, context.node.other_hosts, has_left=has_left)
    if whereabouts.elsewhere is Elsewhere.RUNNING:
        return f"{what} {whereabouts.message} {leave_all(context)}"
    lost = find_lost_process(journal)
    if lost is not None:
        raise MigrationError(
            Reason.STORAGE_FAILED,
            f"{what} But {lost.path} is written to by {lost.name}, and the migration waits for the end of that.",
        )
    if whereabouts.elsewhere is Elsewhere.UNKNOWN:
        raise MigrationError(Reason.HYPERVISOR_UNAVAILABLE, f"{what} {whereabouts.message}")
    obstacle = _why_all_is_kept(context, layer)
    if obstacle is not None:
        return f"{what} {obstacle} {leave_all(context)}"
    kept = "".join(f" {volume.path} was kept. {volume.reason}" for volume in _settle(context, layer))
    if layer in (ActiveLayer.OVERLAY, ActiveLayer.DESTINATION):
        return f"{what} Its disk is at {journal.destination[-1].path}, and the source's volumes were kept.{kept}"
    return f"{what} Its disk is at {journal.source[-1].path}, as before the migration.{kept}"


def _why_all_is_kept(context: MigrationContext, layer: ActiveLayer | None) -> str | None:
    """Return a sentence for the user, or None."""
    journal = context.journal
    if layer in (None, ActiveLayer.FOREIGN) or journal.is_switching:
        return "Which volume has its last writes cannot be told."
    written = [(context.source, volume) for volume in (journal.snapshot, journal.source[-1]) if volume is not None]
    written += [(context.destination, volume) for volume in journal.at_destination]
    for home, volume in written:
        need = context.node.remover.need_of(home, own(volume))
        if need is not None:
            return f"{volume.path} stays. {need}"
    return None


def _settle(context: MigrationContext, layer: ActiveLayer | None) -> tuple[RetainedVolume, ...]:
    """Merge and remove; return what was kept."""
    journal = context.journal
    if layer in (ActiveLayer.OVERLAY, ActiveLayer.DESTINATION):
        if (
            layer is ActiveLayer.OVERLAY
            and journal.overlay is not None
            and is_there(context.destination, journal.overlay)
        ):
            merge_cold(
                overlay=journal.overlay,
                base=journal.destination[-1],
                home=context.destination,
                keep_on=context.agent_runs,
            )
            return context.remove(context.destination, (own(journal.overlay),))
        return ()
    if layer is ActiveLayer.SNAPSHOT and journal.snapshot is not None and is_there(context.source, journal.snapshot):
        merge_cold(overlay=journal.snapshot, base=journal.source[-1], home=context.source, keep_on=context.agent_runs)
    kept = context.remove(context.destination, tuple(map(own, reversed(journal.at_destination))))
    if journal.snapshot is not None:
        kept += context.remove(context.source, (own(journal.snapshot),))
    return kept
