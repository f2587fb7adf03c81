"""Change the persistent XML of a VM that is off, and prove afterwards that no VM was starting with the old one.

A VM that starts takes the persistent XML as it is at that moment, and writes to the old volume if that was before the
change. The journal says that the change is not proven until it is, for an agent that starts in between.
"""

from pathlib import Path

from diskmigration.agent.migration.cold_copy import Mark
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.disturbance import disturbance
from diskmigration.agent.migration.journal import ColdSwitch, JournalVolume
from diskmigration.agent.migration.steps.definition import settle_persistent_source
from diskmigration.agent.migration.steps.pivot import activate_all
from diskmigration.agent.storage import qemu_img
from diskmigration.agent.storage.image_locks import writers_of_any
from diskmigration.agent.storage.write_marks import write_mark
from diskmigration.api.disk_migration import Failure, Phase
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_SETTLE_SECONDS = 0.2
_REFUSALS = 50
"""How many times that: a QEMU that is refused its image ends within a second or two."""


def switch_cold(context: MigrationContext, *, old: JournalVolume, new: JournalVolume, since: Mark) -> None:
    """Have the persistent XML name the new volume, which holds what the old one held at the mark.

    Raises:
        MigrationError: PivotFailed, StorageFailed.
    """
    switch = ColdSwitch(old=old.path, new=new.path, old_mark=since.writes, new_mark=write_mark(Path(new.path)))
    context.record(cold_switch=switch)
    settle_persistent_source(context, new)


def settle_cold_switch(context: MigrationContext) -> None:
    """Prove that the change was right, or take it back; where neither can be, end the migration with both kept.

    Raises:
        MigrationError: PivotFailed, StorageFailed; it is to be tried again.
    """
    switch = context.journal.cold_switch
    assert switch is not None  # noqa: S101 - decided only where there is one
    old, new = context.journal.volume(switch.old), context.journal.volume(switch.new)
    _await_refusal(context, old)
    path = context.active_path()
    if path == old.path:
        # The live XML is believed: the VM had begun to start before the change.
        _take_back(context, old)
    elif path != new.path:
        raise MigrationError(
            Reason.PIVOT_FAILED, f"libvirt took the XML that has {context.target} on {new.path}, but shows {path}."
        )
    elif _is_as_before(old, switch.old_mark) or _did_not_start(context, old):
        _confirm(context, new)
    elif context.is_running():
        _keep_both(context, switch)
    elif _is_as_before(new, switch.new_mark):
        _take_back(context, old)
    else:
        activate_all(context)
        chains = context.journal.chain_of(old), context.journal.chain_of(new)
        with context.doing(f"Comparing {old.path} with {new.path}"):
            is_equal = qemu_img.is_equal(*chains, keep_on=context.keep_on)
        if is_equal:
            _confirm(context, new)
        else:
            _keep_both(context, switch)


def _await_refusal(context: MigrationContext, old: JournalVolume) -> None:
    """Wait for the end of a VM that began to start with the old XML, if its QEMU is to be refused a locked file."""
    if old.type is not StorageType.FILE or not context.cold_copy.is_locked:
        return
    with context.doing(f"Waiting for the end of a QEMU that was started with {old.path}"):
        for _ in range(_REFUSALS):
            if context.active_path() != old.path or not context.is_running():
                return
            context.wait(_SETTLE_SECONDS)


def _take_back(context: MigrationContext, old: JournalVolume) -> None:
    settle_persistent_source(context, old)
    context.cold_copy.release()
    switch = context.journal.cold_switch
    if context.active_path() == old.path or switch is None:
        context.record(cold_switch=None)
    else:
        _keep_both(context, switch)


def _confirm(context: MigrationContext, new: JournalVolume) -> None:
    is_pivot = new == context.journal.mirror
    context.record(cold_switch=None, is_merged=not is_pivot, **({"has_pivoted": True} if is_pivot else {}))


def _is_as_before(volume: JournalVolume, mark: str | None) -> bool:
    path = Path(volume.path)
    # The mark comes last: it counts what was written while somebody was looked for.
    return mark is not None and not writers_of_any([path]) and write_mark(path) == mark


def _did_not_start(context: MigrationContext, old: JournalVolume) -> bool:
    """Return whether the VM is off and never started: all there is to go by where writes are not counted."""
    since = context.cold_copy.since
    return since is not None and since.writes is None and disturbance(context, old, since) is None


def _keep_both(context: MigrationContext, switch: ColdSwitch) -> None:
    message = (
        f"The VM was started with its disk {context.target} on {switch.old} at the moment at which its XML came to "
        f"name {switch.new}. Both may hold writes that the other has not. Both were kept, with all that is below them. "
        "Look into both, and have the VM's XML name the right one."
    )
    failure = Failure(reason=Reason.VIRTUAL_MACHINE_STOPPED, message=message, phase=Phase.PIVOTING)
    context.record(failure=failure, outcome=Phase.FAILED)
