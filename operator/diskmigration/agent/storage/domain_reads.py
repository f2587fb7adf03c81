"""Ask a storage domain's driver what may hang with its storage. A domain that hangs costs its own answer alone.

A path is looked at before any domain is asked for it. A domain that does not answer then hangs by itself, and is asked
no more until it has answered.
"""

from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import TypeVar

from diskmigration.agent.storage.bounded_reads import BoundedReads, NoAnswerError
from diskmigration.agent.storage.driver import StorageDriver, StoredImage
from diskmigration.agent.storage.paths import found_at
from diskmigration.api.errors import MigrationError, Reason

_T = TypeVar("_T")

ANSWER_SECONDS = 15.0
"""A machine that is busy resolves the links of a path within that time."""

SOON_SECONDS = 1.0
"""How long a storage is waited for at first that probably has nothing to do with a path."""

_reads = BoundedReads("storage-domain")


def look_at(path: Path) -> None:
    """Return if the path's storage answers, whatever it answers.

    Raises:
        MigrationError: StorageFailed, it does not.
    """
    _bounded(("path", path), partial(_look_at, path), what=f"What is at {path}")


def volume_at(name: str, driver: StorageDriver, path: Path, *, seconds: float | None = None) -> str | None:
    """Return the name of the volume that a path means, see StorageDriver; `name` is the domain's.

    The domain is waited for so many `seconds`, or as long as a busy machine takes.

    Raises:
        MigrationError: StorageFailed, also where the domain's storage hangs.
    """
    return _bounded(("volume", id(driver)), partial(driver.volume_at, path), what=_what(name), seconds=seconds)


def image_at(name: str, driver: StorageDriver, path: Path) -> StoredImage | None:
    """Return the volume that a path means at which nothing is now, see StorageDriver; `name` is the domain's.

    Raises:
        MigrationError: StorageFailed, also where the domain's storage hangs.
    """
    # Not by the key of `volume_at`: a volume group runs a command for this, and an extension must not wait for that.
    return _bounded(("image", id(driver)), partial(driver.image_at, path), what=_what(name))


def images(name: str, driver: StorageDriver) -> tuple[StoredImage, ...]:
    """Return every image of the domain, see StorageDriver; `name` is the domain's.

    Raises:
        MigrationError: StorageFailed, also where the domain's storage hangs.
    """
    return _bounded(("images", id(driver)), driver.images, what=_what(name))


def _look_at(path: Path) -> None:
    try:
        found_at(path)
    except MigrationError:
        return


def _what(name: str) -> str:
    return f"The storage of the StorageDomain {name}"


def _bounded(key: Hashable, call: Callable[[], _T], *, what: str, seconds: float | None = None) -> _T:
    try:
        return _reads.read(key, call, seconds=ANSWER_SECONDS if seconds is None else seconds)
    except NoAnswerError as error:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"{what} does not answer: {error}. Check its mount, and the server behind it."
        ) from error
