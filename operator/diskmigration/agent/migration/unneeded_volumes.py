"""A volume that is to be removed, and what it is to the migration that removes it. Pure."""

from dataclasses import dataclass
from enum import Enum

from diskmigration.agent.migration.journal import Journal, JournalVolume
from diskmigration.api.disk_migration import VolumeFormat


class Standing(Enum):
    """What a volume is to the migration that removes it."""

    OWN = "own"
    TOP = "top"
    LOWER = "lower"


@dataclass(frozen=True)
class UnneededVolume:
    """A volume that is to be removed; `is_expected` tells that it must be there, as nobody has removed it yet."""

    name: str
    path: str
    is_qcow2: bool
    standing: Standing
    is_expected: bool = False


def own(volume: JournalVolume) -> UnneededVolume:
    """Return a volume that the migration made."""
    return _unneeded(volume, Standing.OWN)


def source_chain(journal: Journal) -> tuple[UnneededVolume, ...]:
    """Return the user's volumes of the source, top first."""
    top, *lower = reversed(journal.source)
    standings = [(top, Standing.TOP), *((volume, Standing.LOWER) for volume in lower)]
    return tuple(_unneeded(volume, standing, is_expected=not journal.removes_source) for volume, standing in standings)


def _unneeded(volume: JournalVolume, standing: Standing, *, is_expected: bool = False) -> UnneededVolume:
    is_qcow2 = volume.format is VolumeFormat.QCOW2
    return UnneededVolume(volume.name, volume.path, is_qcow2, standing, is_expected=is_expected)
