"""The files below an image that is not in use, as the headers name them: good for keeping a volume, not for more."""

import json
from pathlib import Path

from diskmigration.agent.storage import qcow2_header
from diskmigration.agent.storage.failures import os_errors
from diskmigration.agent.storage.paths import exists, is_regular
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason

_JSON = "json:"


def backing_paths(path: Path, image_format: str) -> tuple[Path, ...]:
    """The files below the image, nearest first.

    Only files and block devices are opened: a header may name a FIFO, on which an open would wait, or a server.

    Raises:
        MigrationError: StorageFailed, also when a file of the chain is missing.
    """
    found: dict[Path, None] = {}
    read: set[Path] = set()
    while image_format == VolumeFormat.QCOW2 and path not in read and exists(path):
        read.add(path)
        header = qcow2_header.read(path)
        names = _file_names(header.backing_name, folder=path.parent)
        found |= dict.fromkeys(names)
        if len(names) != 1 or header.backing_name.startswith(_JSON):
            break
        path, image_format = names[0], header.backing_format or _guessed_format(names[0])
    if missing := [name for name in found if not exists(name)]:
        raise MigrationError(Reason.STORAGE_FAILED, f"The backing chain of {path} goes on to {missing[0]}: it is gone.")
    return tuple(found)


def _guessed_format(path: Path) -> str:
    """For a header that does not state it, as old ones do not. A guest that fakes one only has more volumes kept."""
    if not is_regular(path) and not path.is_block_device():
        return ""
    with os_errors(f"reading {path}"), path.open("rb") as opened:
        return VolumeFormat.QCOW2 if opened.read(len(qcow2_header.MAGIC)) == qcow2_header.MAGIC else ""


def _file_names(backing: str, *, folder: Path) -> list[Path]:
    """The files that a header's word for what is below it names: none where it names a server, say."""
    if backing.startswith(_JSON):
        try:
            found = _file_names_in(json.loads(backing.removeprefix(_JSON)))
        except ValueError:
            return []
        return [folder / name for name in found]
    name = backing.removeprefix("file:")
    is_file = bool(name) and ":" not in name.partition("/")[0]
    return [folder / name] if is_file else []


def _file_names_in(value: object) -> list[str]:
    if not isinstance(value, dict):
        return []
    own = [found for key, found in value.items() if key.rpartition(".")[2] == "filename" and isinstance(found, str)]
    return own + [name for inner in value.values() for name in _file_names_in(inner)]
