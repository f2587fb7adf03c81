"""The names of the volumes that migrations make."""

import re
from dataclasses import dataclass

from diskmigration.api.disk_migration import VolumeFormat

SNAPSHOT = "snapshot"
"""The role of the volume that the guest writes to while the chain below it is copied."""
OVERLAY = "overlay"
"""The role of that volume's copy."""

PROBE = "probe"
"""The role of a file that is made and removed at once, to see what becomes of it."""


def volume_name(uid: str, attempt: int, role: str, image_format: VolumeFormat) -> str:
    """Return the name of a volume that an attempt at the migration with that uid makes.

    The role of a copy is the position in its chain, base first.

    Each attempt has its own names: a volume of an earlier attempt may hold what the guest wrote last. The suffix is
    for AppArmor: virt-aa-helper reads a chain only where the names of its files end in .qcow2, .raw and the like.
    """
    return f"dm-{uid}-{attempt}-{role}.{image_format}"


@dataclass(frozen=True)
class OwnName:
    """What the name of a migration's volume tells."""

    attempt: int
    role: str


def read_own_name(uid: str, name: str) -> OwnName | None:
    """Return what the name of a volume tells that the migration with that uid made; None for any other name.

    Earlier versions of the agent left out the attempt and the format.
    """
    found = re.fullmatch(rf"dm-{re.escape(uid)}-(?:(\d+)-)?(\d+|{SNAPSHOT}|{OVERLAY})(?:\.[a-z0-9]+)?", name)
    return OwnName(int(found[1] or 1), found[2]) if found is not None else None
