"""What lvm2 answers when it fails, in plain words. Pure.

The exit status is 5 for nearly everything, so the texts have to tell; they are those of lvm2's source. What is not
known here is handed on as it stands.
"""

import re
from collections.abc import Sequence
from datetime import datetime

from diskmigration.agent.storage.driver import NoRoomError, VolumeInUseError
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.model import rfc3339

_NO_ROOM = ("insufficient free space", "insufficient suitable", "insufficient allocatable")
_DEVICE_IS_MISSING = (
    "device not found for",
    "couldn't find device with uuid",
    "is missing pv",
    "while pvs are missing",
)
_GROUP_IS_MISSING = re.compile(r'volume group "[^"]*" not found')
_LOCKED_ELSEWHERE = "locked by other host"
_SIZE_IS_THERE = ("matches existing size", "not larger than existing size")

# In this order: a missing device, say, is warned of beside every other failure.
_ADVICE = (
    (("in use.", "is in use by"), "Somebody has the volume open: see who with `lsof` or `dmsetup ls --tree`."),
    (
        ("locked with incompatible mode",),
        "The volume is active in shared mode on this node. Activate it exclusively: `lvchange --activate n`, then "
        "`lvchange --activate ey`.",
    ),
    (("held by other host",), "Another node changes the group; it is tried again."),
    (
        ("lockspace", "lvmlockd", "due to failed lock", "global lock failed", "lock manager"),
        "The group's locks cannot be had: see that lvmlockd and its lock manager run on the node, that the locks were "
        "started (`vgchange --lockstart`), and that the agent's pod mounts /run/lvm.",
    ),
    (
        ("flock failed", "can't get lock", "cannot get lock"),
        "Another LVM command holds the group: see which with `lsof /run/lock/lvm/V_*`.",
    ),
    (
        ("cannot access vg", "system id"),
        "The group belongs to another host by its system id: see lvmsystemid(7).",
    ),
    (("is exported",), "The group is exported: import it with `vgimport`."),
    (
        ("refusing activation of partial", "while pvs are missing", "missing pv", "couldn't find device with uuid"),
        "A physical volume of the group is missing: see which with `pvs` and `vgs -o+vg_missing_pv_count`, and bring "
        "its device back.",
    ),
    (
        ("volume group", "not found"),
        "The group is not there on this node: see `vgs`. Where it should be, check that its devices are connected and "
        "in the devices file (`lvmdevices`), and that the agent's pod mounts /dev and /etc/lvm.",
    ),
    (
        ("device-mapper driver missing", "/dev/mapper/control", "communicate with kernel device-mapper"),
        "The kernel has no device-mapper: load the module `dm_mod`.",
    ),
    (
        ("failed to activate", "activation failed", "device-mapper: create ioctl", "device-mapper: reload ioctl"),
        "The volume cannot be activated: see the kernel's log on the node (`dmesg`).",
    ),
)
_ALL_WORDS = frozenset({("volume group", "not found")})
"""Where all the words have to be there, not any."""


def failure(answer: str, *, doing: str, line: Sequence[str]) -> MigrationError:
    """Return the error for a command line that failed, with lvm2's own answer and what to do about it."""
    said = " ".join(answer.split()) or "nothing"
    message = f"While {doing}, {line[0]} answered: {said.removesuffix('.')}."
    lowered = _without_names(said, line).lower()
    if any(words in lowered for words in _NO_ROOM):
        return NoRoomError(f"{message} Free some room in the volume group, or add a physical volume (vgextend).")
    if _LOCKED_ELSEWHERE in lowered:
        return VolumeInUseError(f"{message} Another node has the volume active. Deactivate it there.")
    advice = next((advice for words, advice in _ADVICE if _applies(words, lowered)), "")
    return MigrationError(Reason.STORAGE_FAILED, f"{message} {advice}".rstrip())


def unanswered(*, doing: str, command: str, seconds: float, since: datetime | None = None) -> MigrationError:
    """Return the error for a command that did not end in time; one that has not ended yet was begun at `since`."""
    lasting = f" LVM has not answered since {rfc3339(since)}." if since is not None else ""
    return MigrationError(
        Reason.STORAGE_FAILED,
        f"While {doing}, {command} did not answer within {seconds:.0f} s.{lasting} Either another LVM command holds "
        "the group's lock (`lsof /run/lock/lvm/V_*`), or a device of the group does not answer (`dmesg`), or the "
        "agent's pod lacks hostIPC or /run/udev, without which LVM waits for udev for ever.",
    )


def says_device_is_missing(answer: str) -> bool:
    """Return whether a device that the command was told to read is not there, or one of the group's was not read."""
    lowered = answer.lower()
    return any(words in lowered for words in _DEVICE_IS_MISSING) or _GROUP_IS_MISSING.search(lowered) is not None


def says_unlocked(answer: str) -> bool:
    """Return whether a report of a shared group was made although the node has no locks of the group.

    Where another node changes the group for long, lvm2 reports it without a lock as well.
    """
    return "without a lock" in answer and "held by other host" not in answer


def says_size_is_there(answer: str) -> bool:
    """Return whether lvextend found the volume as large already."""
    return any(words in answer for words in _SIZE_IS_THERE)


def _without_names(said: str, line: Sequence[str]) -> str:
    """Return the answer without names: a group may have the name of lvm2's lock daemon."""
    operands = line[line.index("--") + 1 :] if "--" in line else ()
    names = {name for operand in operands for name in operand.split("/")}
    if not names:
        return said
    any_name = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(rf"(?<![\w+.-])({any_name})(?![\w+-])", "", said)


def _applies(words: tuple[str, ...], answer: str) -> bool:
    found = (word in answer for word in words)
    return all(found) if words in _ALL_WORDS else any(found)
