"""Work that failed as its storage domain is full, whether or not its error says so."""

from collections.abc import Iterator
from contextlib import contextmanager

from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.api.errors import MigrationError, Reason

_TELLS_NO_CAUSE = frozenset({Reason.BLOCK_JOB_FAILED, Reason.PIVOT_FAILED, Reason.MERGE_FAILED, Reason.COPY_FAILED})
"""Of a block job libvirt says only that it failed. A loop device answers EIO where a quota of its file is used up."""


@contextmanager
def lacking_room(reason: Reason) -> Iterator[None]:
    """Say whose room is missing: SourceFull or DestinationFull, as the caller knows.

    Raises:
        MigrationError: with that reason.
    """
    try:
        yield
    except NoRoomError as error:
        raise MigrationError(reason, error.message) from error


@contextmanager
def seen_if_full(home: OpenDomain, volume: str, reason: Reason) -> Iterator[None]:
    """Give what fails in the block the reason SourceFull or DestinationFull where the volume cannot grow any further.

    Raises:
        MigrationError: with that reason, or as it was raised.
    """
    try:
        with lacking_room(reason):
            yield
    except MigrationError as error:
        if error.reason not in _TELLS_NO_CAUSE or not home.driver.is_full(volume):
            raise
        raise MigrationError(
            reason,
            f"The storage domain {home.name} is full, or its quota is used up: free some room in it. {error.message}",
        ) from error
