"""A volume's data made unreadable before its extents go to somebody else, in steps that can be interrupted."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from diskmigration.agent.storage import command
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import WipeAfterDelete

_log = logging.getLogger(__name__)

ZERO_STEP_BYTES = 2**30
DISCARD_STEP_BYTES = 64 * 2**30
NOTE_BYTES = 16 * 2**30
"""How much is wiped again at most when a wiping goes on after an interruption."""

_STEP_TIMEOUT_SECONDS = 3600.0
_NOT_SUPPORTED = "Operation not supported"


def steps(start: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each step from start to end, in bytes."""
    for offset in range(start, end, step):
        yield offset, min(step, end - offset)


def wipe(path: Path, *, size_bytes: int, start: int, how: WipeAfterDelete, note: Callable[[int], None]) -> None:
    """Wipe a device from `start` to its end; `note` gets the offset that it has come to, each NOTE_BYTES.

    A device that cannot discard is zeroed instead: whoever asked for one of the two wants the data gone. blkdiscard
    opens the device exclusively, so a mounted one is refused.

    Raises:
        MigrationError: StorageFailed.
    """
    if how is WipeAfterDelete.DISCARD:
        try:
            _run(path, steps(start, size_bytes, DISCARD_STEP_BYTES), (), note)
        except MigrationError as error:
            if _NOT_SUPPORTED not in error.message:
                raise
            _log.warning("the device cannot discard and is zeroed", extra={"path": str(path)})
        else:
            return
    _run(path, steps(start, size_bytes, ZERO_STEP_BYTES), ("--zeroout",), note)


def _run(path: Path, parts: Iterator[tuple[int, int]], options: tuple[str, ...], note: Callable[[int], None]) -> None:
    noted: int | None = None
    for offset, length in parts:
        noted = offset if noted is None else noted
        command.run(
            ["blkdiscard", *options, "--offset", str(offset), "--length", str(length), "--", str(path)],
            doing=f"wiping {path}",
            timeout=_STEP_TIMEOUT_SECONDS,
        )
        if offset + length - noted >= NOTE_BYTES:
            noted = offset + length
            note(noted)
