"""The command lines of lvm2, each by what it does. Pure.

Sizes are handed over in bytes or in extents, never in a unit that lvm.conf could change. A volume is always said as
`GROUP/VOLUME` behind a `--`, with both names checked, so that no name can be read as an option.
"""

from collections.abc import Sequence

from diskmigration.agent.storage.lvm.lvm_report import GROUP_FIELDS, VOLUME_FIELDS

# json_std came with lvm2 2.03.17 only; with units, suffixes and binary values fixed, the older json says the same.
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix", "--binary")

# Those that go on although a physical volume is missing, and then mark it as missing in the group's metadata.
# Source: `handles_missing_pvs` in lvm2's tools/.
_GO_ON_WITHOUT_A_DEVICE = frozenset({"lvchange", "lvremove"})
_ONLY_IF_WHOLE = ("--select", "vg_missing_pv_count=0")

# lvm2 refuses a size in bytes that is not a whole number of them.
_SECTOR_BYTES = 512


def confined(line: Sequence[str], devices: Sequence[str]) -> list[str]:
    """Have a command read no devices but those of its group, so that it does not wait for a device of another group.

    Where the group has got another device since, the command changes nothing and says that one is missing. `lvchange`
    and `lvremove` would change the group without it, and do nothing instead, with status 0.
    """
    command, *rest = line
    only_if_whole = _ONLY_IF_WHOLE if command in _GO_ON_WITHOUT_A_DEVICE else ()
    return [command, "--devices", ",".join(devices), *only_if_whole, *rest]


def report_group(group: str) -> list[str]:
    """Report one volume group, in a row for each of its physical volumes."""
    return ["vgs", *_REPORT, "-o", ",".join(GROUP_FIELDS), "--", group]


def report_volumes(group: str) -> list[str]:
    """Report every volume of the group that is not hidden."""
    return ["lvs", *_REPORT, "-o", ",".join(VOLUME_FIELDS), "--", group]


def create(group: str, volume: str, *, extents: int, tags: Sequence[str], exclusive: bool) -> list[str]:
    """Make a linear volume on fresh extents, active.

    What their last user left there is wiped as far as it could be taken for a file system or the like. That is safe, as
    nothing else can lie on extents that were free.
    """
    added = [word for tag in tags for word in ("--addtag", tag)]
    activation = ["--activate", "ey" if exclusive else "y"]
    wiping = ["--yes", "--zero", "y", "--wipesignatures", "y"]
    return [
        *["lvcreate", "--type", "linear", *wiping, *activation, "--extents", str(extents), *added],
        *["--name", volume, "--", group],
    ]


def extend(group: str, volume: str, *, size_bytes: int) -> list[str]:
    """Extend the volume to that size, which lvm2 rounds up to whole extents; its data are not looked at.

    In bytes, as an extension is urgent and the size of an extent would have to be asked first. It fails where the
    volume has as many extents already.
    """
    sectors = -(-size_bytes // _SECTOR_BYTES)
    return ["lvextend", "--size", f"{sectors * _SECTOR_BYTES}b", "--", f"{group}/{volume}"]


def activate(group: str, volumes: Sequence[str], *, exclusive: bool) -> list[str]:
    """Activate volumes on this node; with an exclusive lock where the group is shared, and so on no other."""
    return ["lvchange", "--activate", "ey" if exclusive else "y", "--", *_named(group, volumes)]


def refresh(group: str, volume: str) -> list[str]:
    """Load the volume's table again, and resume it where a command that was killed left it suspended."""
    return ["lvchange", "--refresh", "--", f"{group}/{volume}"]


def change_tags(
    group: str, volumes: Sequence[str], *, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> list[str]:
    """Add and remove tags; one that is there already, or not there, is no error."""
    added = [word for tag in add for word in ("--addtag", tag)]
    removed = [word for tag in remove for word in ("--deltag", tag)]
    return ["lvchange", *removed, *added, "--", *_named(group, volumes)]


def remove(group: str, volume: str) -> list[str]:
    """Deactivate and remove a volume; the kernel refuses it while anybody has the volume open."""
    return ["lvremove", "--yes", "--", f"{group}/{volume}"]


def _named(group: str, volumes: Sequence[str]) -> list[str]:
    return [f"{group}/{volume}" for volume in volumes]
