"""The copy of the disk of a VM that is off, and the lock that keeps a VM from starting on its source meanwhile."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.hypervisor.starts import StartCount
from diskmigration.agent.storage import image_locks


@dataclass(frozen=True)
class Mark:
    """A moment in the life of a volume of a VM that is off: the VM's starts and the writes to the volume until then.

    Either is None where it is not known. See migration/disturbance.py.
    """

    starts: StartCount | None
    writes: str | None


class ColdCopy:
    """Used by the worker's thread alone.

    `since` is the mark from which on nobody may have written to what was copied; None where the whole disk is not
    copied, or where that does not count any more.
    """

    def __init__(self) -> None:
        self._locks = ExitStack()
        self.is_locked = False
        self.since: Mark | None = None

    def lock(self, path: Path) -> None:
        """Let no QEMU write to the volume until `release`, if it is a file.

        Raises:
            ImageInUseError: somebody does.
            MigrationError: VirtualMachineNotRunning, where it cannot be locked; StorageFailed.
        """
        self.release()
        self._locks.enter_context(image_locks.writers_kept_out(path))
        self.is_locked = True

    def release(self) -> None:
        """Let a VM start: what was copied does not count any more."""
        self._locks.close()
        self.is_locked = False
        self.since = None
