"""The images that an image's own header names: good for keeping a volume, and for nothing more.

Only files and block devices are opened: a header may name a FIFO, on which an open would wait, or a server.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.storage import qcow2_header
from diskmigration.agent.storage.qcow2_header import Header
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason

_JSON = "json:"
_HEAD_BYTES = 512
_OTHER_FORMATS_WITH_BACKING = {b"KDMV": "vmdk", b"COWD": "vmdk", b"# Disk Descriptor": "vmdk", b"QED\0": "qed"}
"""By the first bytes; see the formats' drivers in QEMU's block/."""
_SERVERS = frozenset({"nbd", "nbd+tcp", "nbd+unix", "rbd", "http", "https", "ftp", "ftps", "tftp", "ssh", "sftp"})
"""Protocols of QEMU behind which there is no file of this node that is read without having it open."""
_FILES = frozenset({"file", "host_device"})


@dataclass(frozen=True)
class NamedImage:
    """An image that a header names, and its format, "" where none is said."""

    path: Path
    format: str


def images_named_by(path: Path, image_format: str) -> tuple[NamedImage, ...]:
    """Return what the image names: the one below it, or all that a `json:` name holds, and the file of its data.

    With the format "", the first bytes tell. A guest may fake them in a raw disk, and only has more volumes kept.

    Raises:
        MigrationError: StorageFailed or DiskNotSupported; what it names cannot be told.
    """
    if image_format == VolumeFormat.QCOW2 or (not image_format and _looks_like_qcow2(path)):
        header = qcow2_header.read(path)
        return (*_named_as_backing(header, path), *_named_as_data(header, path))
    if image_format in ("", VolumeFormat.RAW):
        return ()
    raise MigrationError(Reason.STORAGE_FAILED, f"{path} has the format {image_format}, which is not read here.")


def _looks_like_qcow2(path: Path) -> bool:
    head = qcow2_header.read_start(path, _HEAD_BYTES)
    for magic, name in _OTHER_FORMATS_WITH_BACKING.items():
        if head.startswith(magic):
            raise MigrationError(Reason.STORAGE_FAILED, f"{path} has the format {name}, which is not read here.")
    return head.startswith(qcow2_header.MAGIC)


def _named_as_backing(header: Header, path: Path) -> Iterator[NamedImage]:
    name = header.backing_name
    if name.startswith(_JSON):
        yield from (NamedImage(path.parent / found, "") for found in _file_names(name, path))
        return
    protocol, colon, rest = name.partition(":")
    if not colon or "/" in protocol:
        rest = name
    elif protocol in _SERVERS:
        return
    elif protocol not in _FILES:
        raise MigrationError(Reason.STORAGE_FAILED, f"The backing name {name!r} of {path} is not understood here.")
    if rest:
        yield NamedImage(path.parent / rest, _format_of(header))


def _format_of(header: Header) -> str:
    """Return the stated format; a protocol in its place, as old headers have it, states none."""
    return header.backing_format if header.backing_format not in _FILES else ""


def _named_as_data(header: Header, path: Path) -> Iterator[NamedImage]:
    if not header.has_data_file:
        return
    if not header.data_file_name:
        raise MigrationError(Reason.STORAGE_FAILED, f"{path} has its data in another file, and does not name it.")
    yield NamedImage(path.parent / header.data_file_name, VolumeFormat.RAW)


def _file_names(backing: str, path: Path) -> list[str]:
    try:
        return _file_names_in(json.loads(backing.removeprefix(_JSON)))
    except (ValueError, RecursionError) as error:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"The backing name {backing!r} of {path} is not understood here."
        ) from error


def _file_names_in(value: object) -> list[str]:
    if not isinstance(value, dict):
        return []
    own = [found for key, found in value.items() if key.rpartition(".")[2] == "filename" and isinstance(found, str)]
    return own + [name for inner in value.values() for name in _file_names_in(inner)]
