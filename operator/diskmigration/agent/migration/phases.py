"""What people read while a step is under way: its phase, and what it does. Pure."""

from datetime import datetime

from diskmigration.agent.migration.decision import Step
from diskmigration.agent.migration.journal import Journal
from diskmigration.api.disk_migration import CutoverPolicy, DiskMigrationSpec, Phase
from diskmigration.api.model import rfc3339

_PHASES = {
    Step.TAKE_SNAPSHOT: Phase.SNAPSHOTTING,
    Step.SKIP_SNAPSHOT: Phase.SNAPSHOTTING,
    Step.PREPARE_DESTINATION: Phase.PREPARING_DESTINATION,
    Step.COPY_CHAIN: Phase.COPYING_CHAIN,
    Step.START_REPLICATION: Phase.REPLICATING,
    Step.DROP_REPLICATION: Phase.REPLICATING,
    Step.SWITCH_COPY_MODE: Phase.REPLICATING,
    Step.AWAIT_SYNC: Phase.REPLICATING,
    Step.AWAIT_CUTOVER: Phase.SYNCHRONIZED,
    Step.COPY_COLD: Phase.REPLICATING,
    Step.PIVOT: Phase.PIVOTING,
    Step.PIVOT_COLD: Phase.PIVOTING,
    Step.MERGE: Phase.MERGING,
}
_WORDS = {
    Step.TAKE_SNAPSHOT: "Taking a snapshot of {disk}",
    Step.SKIP_SNAPSHOT: "Removing what was made for a snapshot of {disk}, as the VM was shut off before",
    Step.PREPARE_DESTINATION: "Measuring {disk} and making its volumes in the storage domain {destination}",
    Step.COPY_CHAIN: "Copying the frozen volumes of {disk} to the storage domain {destination}",
    Step.START_REPLICATION: "Starting the mirror of {disk} to {mirror}",
    Step.DROP_REPLICATION: "Ending the mirror of {disk} to {mirror}, which libvirt has lost",
    Step.SWITCH_COPY_MODE: "Ending the mirror of {disk} to {mirror}: the guest's writes wait for the next one",
    Step.AWAIT_SYNC: "Mirroring {disk} to {mirror}",
    Step.COPY_COLD: "Copying {disk}, whose VM is off, to {mirror}",
    Step.PIVOT: "Switching {disk} to {mirror}",
    Step.PIVOT_COLD: "Switching {disk} to {mirror} in the VM's definition",
    Step.SETTLE_PIVOT: "Finding out where the guest wrote last, as the VM ended while {disk} was switched",
    Step.SETTLE_COLD_SWITCH: "Finding out whether the VM was started while {disk} was switched in its definition",
    Step.MERGE: "Merging {overlay} into {top}",
    Step.CLEAN_UP_SOURCE: "Removing the volumes of {disk} that are not needed any more",
    Step.ABORT_REPLICATION: "Ending the mirror of {disk} to {mirror}",
    Step.MERGE_BACK: "Merging {snapshot} into {source}",
    Step.DISCARD_DESTINATION: "Removing the volumes that the migration made",
    Step.FINISH: "Ending the migration",
}


def phase_of(step: Step, journal: Journal) -> Phase:
    """Return the phase that the status shows during the step."""
    if step in (Step.SETTLE_PIVOT, Step.SETTLE_COLD_SWITCH) and not journal.rolls_back:
        # A merge ends with a switch too.
        return Phase.MERGING if journal.has_pivoted else Phase.PIVOTING
    return _PHASES.get(step, Phase.CLEANING_UP)


def words_of(step: Step, journal: Journal, spec: DiskMigrationSpec, *, now: datetime) -> str:
    """Return what the step does, for `activity.Activity`; not of the waits that have a message of their own."""
    if step is Step.AWAIT_CUTOVER:
        return _cutover_words(spec, now=now)
    return _WORDS[step].format(
        disk=journal.migration.spec.disk,
        source=journal.source[-1].path,
        snapshot=journal.snapshot.path if journal.snapshot is not None else "the snapshot",
        mirror=journal.mirror.path,
        overlay=journal.overlay.path if journal.overlay is not None else "the copy of the snapshot",
        top=journal.destination[-1].path,
        destination=journal.destination_domain.metadata.name,
    )


def _cutover_words(spec: DiskMigrationSpec, *, now: datetime) -> str:
    cutover = spec.cutover
    if spec.suspend:
        return "Waiting for spec.suspend to become false"
    if cutover.policy is CutoverPolicy.MANUAL:
        return "Waiting for spec.cutover.policy to become Automatic"
    if cutover.not_before is not None and now < cutover.not_before:
        return f"Waiting for spec.cutover.notBefore ({rfc3339(cutover.not_before)})"
    return "Waiting for the cutover"
