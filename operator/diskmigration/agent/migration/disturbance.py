"""Tell whether anybody can have written to a volume while qemu-img read it: what it read counts only if nobody can.

A file is locked meanwhile, and QEMU refuses to start on it. A lock on a block device is not seen by QEMU, which has a
/dev of its own: the VM can start, write, and end again before anybody looks. Three things tell of it. The kernel counts
the writes to the volume; libvirt reports each start of the VM; and who still has the volume open is seen in /proc.
"""

from pathlib import Path

from diskmigration.agent.hypervisor.starts import StartCount
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration.cold_copy import Mark
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.storage.image_locks import writers_of_any
from diskmigration.agent.storage.write_marks import write_mark


def mark_of(context: MigrationContext, volume: JournalVolume) -> Mark:
    """Return the mark of this moment.

    Raises:
        MigrationError: StorageFailed; HypervisorUnavailable.
    """
    return Mark(starts=_count_starts(context), writes=write_mark(Path(volume.path)))


def disturbance(context: MigrationContext, volume: JournalVolume, since: Mark) -> str | None:
    """Return why the volume of a VM that is off may have been written to since the mark; None if nobody can have.

    The starts are counted last: what happened before has then been reported.

    Raises:
        MigrationError: StorageFailed, it cannot be told; HypervisorUnavailable.
    """
    if context.is_running():
        return "the VM was started"
    path = Path(volume.path)
    if (writer := writers_of_any([path]).get(path)) is not None:
        return f"it is written to by {writer}"
    if write_mark(path) != since.writes:
        return "somebody wrote to it"
    starts = _count_starts(context)
    if starts is None or since.starts is None or starts.epoch != since.starts.epoch:
        return "the connection to libvirt was lost meanwhile, so whether the VM was started is not known"
    return "the VM was started" if starts != since.starts else None


def has_started_since(context: MigrationContext, since: Mark) -> bool:
    """Return whether the VM is known to have started since the mark, by what libvirt has reported so far."""
    return context.node.starts.count(context.domain.uuid) != since.starts


def _count_starts(context: MigrationContext) -> StartCount | None:
    def write() -> None:
        journals.write(context.domain, context.journal)

    return context.node.starts.count_after(context.domain.uuid, journals.uri(context.target), write)
