"""What a spec may not say although the schema lets it pass. Pure."""

from diskmigration.api.disk_migration import BackingChain, DiskMigrationSpec, VolumeFormat
from diskmigration.api.errors import Reason
from diskmigration.controller.placement_outcome import Refusal
from diskmigration.controller.records import Migration


def refusal_of(migration: Migration) -> Refusal | None:
    """Why this spec can never be carried out, or None. The schema's own rules are held again, as CRDs may be older."""
    if migration.spec is None:
        return unreadable(migration)
    return _contradiction(migration.spec)


def unreadable(migration: Migration) -> Refusal:
    """The refusal of a spec that cannot be read."""
    return _invalid(f"The spec cannot be read: {migration.spec_error}. Make a new DiskMigration with it corrected.")


def _contradiction(spec: DiskMigrationSpec) -> Refusal | None:
    if not spec.virtual_machine.name and not spec.virtual_machine.uuid:
        return _invalid("spec.virtualMachine names no VM: give its name, its uuid, or both.")
    if spec.destination.format is VolumeFormat.RAW and spec.backing_chain is BackingChain.PRESERVE:
        return _invalid("A raw volume cannot have a backing chain: use format qcow2, or backingChain Flatten.")
    return None


def _invalid(message: str) -> Refusal:
    return Refusal(Reason.INVALID_SPEC, message, is_permanent=True)
