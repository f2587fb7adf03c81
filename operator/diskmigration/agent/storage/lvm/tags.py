"""What the tags of a logical volume say: whose it is, and whether anybody's data depends on it. Pure.

`lvs -o lv_name,lv_tags VG` shows them. A volume without our tag is never extended, removed, wiped or formatted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from diskmigration.agent.storage.driver import Owner
from diskmigration.api.names import GROUP

OURS = GROUP
"""On every volume that this project may work on: those it made, and those an administrator handed over."""

INCOMPLETE = f"{GROUP}/incomplete"
"""On a volume that is being made. It goes before a guest first writes to it: until then its data is elsewhere too."""

REMOVING = f"{GROUP}/removing"
"""On a volume whose removal was decided and is under way; its data is being wiped."""

_MIGRATION = f"{GROUP}/migration="
_VIRTUAL_MACHINE = f"{GROUP}/vm="
_NODE = f"{GROUP}/node="
_WIPED = f"{GROUP}/wiped="


@dataclass(frozen=True)
class Ownership:
    """A volume's tags, read. `wiped_bytes` is how far a wiping had come when that was last noted."""

    is_ours: bool = False
    is_incomplete: bool = False
    is_being_removed: bool = False
    migration: str = ""
    node: str = ""
    wiped_bytes: int = 0


def of_new_volume(owner: Owner) -> tuple[str, ...]:
    """Return the tags with which a volume is made."""
    return (
        OURS,
        INCOMPLETE,
        f"{_MIGRATION}{owner.migration}",
        f"{_VIRTUAL_MACHINE}{owner.virtual_machine}",
        f"{_NODE}{owner.node}",
    )


def of_progress(wiped_bytes: int) -> str:
    """Return the tag that notes how far a wiping has come."""
    return f"{_WIPED}{wiped_bytes}"


def is_of_progress(tag: str) -> bool:
    """Return whether the tag notes how far a wiping has come."""
    return tag.startswith(_WIPED)


def read(tags: Iterable[str]) -> Ownership:
    """Return what the tags say; those of others say nothing."""
    known = frozenset(tags)
    noted = (_after(known, _WIPED), "0")
    return Ownership(
        is_ours=OURS in known,
        is_incomplete=INCOMPLETE in known,
        is_being_removed=REMOVING in known,
        migration=_after(known, _MIGRATION),
        node=_after(known, _NODE),
        wiped_bytes=int(next(text for text in noted if text.isdecimal())),
    )


def _after(tags: frozenset[str], prefix: str) -> str:
    """What follows the prefix, of the last in order where there are several."""
    return max((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), default="")
