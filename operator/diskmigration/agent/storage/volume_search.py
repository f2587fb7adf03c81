"""Find the storage domain that has a volume. One whose storage hangs costs the others a moment.

A directory in which others lie is told apart by its path: links aside, a domain has a volume of another one nearer only
if its own directory lies in that one's.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from diskmigration.agent.storage import domain_reads
from diskmigration.agent.storage.driver import StorageDriver, StoredImage
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageDomain


class KnownDomain(Protocol):
    """A storage domain and its driver."""

    @property
    def domain(self) -> StorageDomain: ...

    @property
    def driver(self) -> StorageDriver: ...

    @property
    def name(self) -> str: ...


_Domain = TypeVar("_Domain", bound=KnownDomain)
_Answer = TypeVar("_Answer")


def innermost(domains: Iterable[_Domain], path: Path) -> tuple[_Domain, str] | None:
    """Return the domain that has the volume at that path, and the volume's name; the innermost of nested directories.

    Raises:
        MigrationError: StorageFailed, no domain has it, and one could not tell.
    """
    domain_reads.look_at(path)
    found, failures = _ask(domains, partial(_volume_at, path=path, seconds=domain_reads.SOON_SECONDS))
    # One that may have it nearer is waited for: it may only be slow.
    slow = [known for known, _ in failures if not found or any(_may_lie_in(known, other) for other, _ in found)]
    later, failures = _ask(slow, partial(_volume_at, path=path))
    found += later
    if failures and not found:
        raise failures[0][1]
    return min(found, key=lambda pair: len(pair[1]), default=None)


def image_at(domains: Iterable[_Domain], path: Path) -> StoredImage | None:
    """Return the volume that a path means at which nothing is now; see StorageDriver.

    Raises:
        MigrationError: StorageFailed, no domain has it, and one could not tell.
    """
    found, failures = _ask(domains, lambda known: domain_reads.image_at(known.name, known.driver, path))
    if failures and not found:
        raise failures[0][1]
    return found[0][1] if found else None


def _volume_at(known: KnownDomain, *, path: Path, seconds: float | None = None) -> str | None:
    return domain_reads.volume_at(known.name, known.driver, path, seconds=seconds)


def _may_lie_in(inner: KnownDomain, outer: KnownDomain) -> bool:
    directory, around = _directory(inner), _directory(outer)
    return directory is not None and around is not None and directory.is_relative_to(around)


def _directory(known: KnownDomain) -> Path | None:
    """Return the domain's directory; None for a volume group."""
    spec = known.domain.spec
    place = spec.file or spec.loop
    return Path(place.path) if place is not None else None


def _ask(
    domains: Iterable[_Domain], ask: Callable[[_Domain], _Answer | None]
) -> tuple[list[tuple[_Domain, _Answer]], Sequence[tuple[_Domain, MigrationError]]]:
    """Return each domain that gives an answer, with it, and each that could not tell."""
    found: list[tuple[_Domain, _Answer]] = []
    failures: list[tuple[_Domain, MigrationError]] = []
    for known in domains:
        try:
            if (answer := ask(known)) is not None:
                found.append((known, answer))
        except MigrationError as error:
            failures.append((known, error))
    return found, failures
