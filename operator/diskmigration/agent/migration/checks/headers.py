"""Whether a volume can be moved, from its own qcow2 header: libvirt does not tell all of it, or not as it is."""

from collections.abc import Iterable

from diskmigration.agent.migration.checks.disk import has_control_character, unsupported
from diskmigration.agent.storage.qcow2_header import Header

_UNDECODED = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""Python's characters for bytes in a file's name that are no UTF-8."""


def require_movable_headers(target: str, headers: Iterable[tuple[str, Header]]) -> None:
    """Raise DiskNotSupported if the header of a volume, given with its path, shows that it cannot be moved."""
    for path, header in headers:
        if (obstacle := _obstacle_of_header(path, header)) is not None:
            raise unsupported(target, obstacle)


def _obstacle_of_header(path: str, header: Header) -> str | None:
    if header.has_data_file:
        return f"the volume {path} has its data in another file"
    if has_control_character(header.backing_name) or _UNDECODED.intersection(header.backing_name):
        return f"libvirt does not keep the name of the volume below {path}, {header.backing_name!r}"
    return None
