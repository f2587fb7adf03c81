"""The kernel's and the programs' refusals as the project's errors: no OSError leaves a driver as itself."""

import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.api.errors import MigrationError, Reason

_ADVICE = {
    errno.ENOSPC: "Free some room on the file system, or inodes (`df -h`, `df -i`).",
    errno.EDQUOT: "A quota is used up: raise it, or free some room below it.",
    errno.EFBIG: "The file would be larger than the file system lets a file be: use another storage domain.",
}
"""The errors that say that a file cannot grow any further, and what helps; another attempt alone does not."""

_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})

_Driver = TypeVar("_Driver")


def is_no_room(error: OSError) -> bool:
    """Return whether a write was refused because the file cannot grow."""
    return error.errno in _ADVICE


def is_nothing_there(error: OSError) -> bool:
    """Return whether the path leads to nothing. Any other error leaves open whether something is there."""
    return error.errno in _NOTHING_THERE


def failure(error: OSError, *, doing: str, reason: Reason = Reason.STORAGE_FAILED) -> MigrationError:
    """Return the error to raise for what the kernel refused: NoRoomError where the file cannot grow."""
    message = f"While {doing}: {error}."
    advice = _ADVICE.get(error.errno or 0)
    return MigrationError(reason, message) if advice is None else NoRoomError(f"{message} {advice}")


def failure_of_program(answer: str, *, doing: str, program: str, reason: Reason) -> MigrationError:
    """Return the error to raise for what a program answered.

    A program ends its last line with the kernel's words. Everywhere else they may be a part of a name.
    """
    message = f"While {doing}, {program} answered: {answer}"
    last_line = answer.rstrip().rpartition("\n")[2]
    for number, advice in _ADVICE.items():
        if last_line.endswith(f": {os.strerror(number)}"):
            return NoRoomError(f"{message.removesuffix('.')}. {advice}")
    return MigrationError(reason, message)


@contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Raise an OSError of the block as a MigrationError that says what was being done.

    Raises:
        MigrationError: StorageFailed.
        NoRoomError: the file cannot grow.
    """
    try:
        yield
    except OSError as error:
        raise failure(error, doing=doing) from error


def raises_migration_errors(driver: type[_Driver]) -> type[_Driver]:
    """Wrap every public method of a StorageDriver in `os_errors`, also those that are added later."""
    for name, method in list(vars(driver).items()):
        if not name.startswith("_") and callable(method):
            setattr(driver, name, _guarded(method))
    return driver


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
        with os_errors(f"doing `{method.__name__}` in the storage domain {self.name}"):
            return method(self, *arguments, **named)

    return guarded
