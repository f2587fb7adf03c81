"""qemu-img: images made, measured and filled. Formats are always stated: an image's first bytes are the guest's.

A chain is base first, and says all that is opened: what an image's own header names below it is the word of whoever
made the image.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diskmigration.agent.storage import command
from diskmigration.agent.storage.paths import exists, is_regular
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_PROGRESS = re.compile(r"\((\d+(?:\.\d+)?)/100%\)")
_JSON = "json:"
_QCOW2_MAGIC = b"QFI\xfb"
_WHOLE_DISK_SECONDS = 3600.0
_COROUTINES = 16  # qemu-img's own maximum: copies of small allocated runs are bound by latency
_BYTES_IN_FLIGHT = 2 * 2**20  # what each of them has in flight, as qemu-img's buffers are


@dataclass(frozen=True)
class Image:
    """A volume as qemu-img is told of it."""

    path: Path
    format: VolumeFormat
    type: StorageType


@dataclass(frozen=True)
class Measure:
    """`qemu-img measure`, in bytes: for the data there is, and for a disk written from end to end."""

    required_bytes: int
    fully_allocated_bytes: int


def create(image: Image, capacity_bytes: int, *, backing: Image | None, preallocate: bool = False) -> None:
    """Formats an existing volume; nothing is read from the backing volume, which may not be filled yet.

    A raw image on a block device needs no formatting, but its capacity must be exact: virtual sizes must match.
    With `preallocate` a file takes its space now: what a full disk would answer later, it answers here. A block volume
    has its space anyway. Its clusters are never allocated before they are written, as the device may hold what somebody
    else has deleted, which the guest would then read.

    Raises:
        MigrationError: StorageFailed.
    """
    if image.format is VolumeFormat.RAW and image.type is StorageType.BLOCK:
        return
    options = []
    if backing is not None:
        options += ["-u", "-b", str(backing.path), "-F", backing.format]
    if preallocate and image.type is StorageType.FILE:
        options += ["-o", "preallocation=falloc"]
    command.run(
        ["qemu-img", "create", "-q", "-f", image.format, *options, str(image.path), str(capacity_bytes)],
        doing=f"formatting {image.path}",
    )


def _named(chain: Sequence[Image]) -> str:
    """The chain as a json: pseudo-protocol name."""
    node: dict[str, object] | None = None
    for image in chain:
        protocol = "host_device" if image.type is StorageType.BLOCK else "file"
        below = {"backing": node} if image.format is VolumeFormat.QCOW2 else {}
        node = {"driver": image.format, "file": {"driver": protocol, "filename": str(image.path)}, **below}
    return _JSON + json.dumps(node)


def measure(chain: Sequence[Image], *, target: VolumeFormat) -> Measure:
    """How large a volume of the target format must be to hold the data of the whole chain.

    Raises:
        MigrationError: StorageFailed.
    """
    printed = command.run(
        ["qemu-img", "measure", "-U", "--output", "json", "-O", target, _named(chain)],
        doing=f"measuring {chain[-1].path}",
    )
    found = json.loads(printed)
    # A bitmap of a backup needs room of its own, which the required size leaves out.
    return Measure(found["required"] + found.get("bitmaps", 0), found["fully-allocated"] + found.get("bitmaps", 0))


def capacity_bytes(image: Image) -> int:
    """The image's virtual size."""
    return int(_information(image, doing=f"reading {image.path}")["virtual-size"])


def _information(image: Image, *, doing: str) -> dict[str, Any]:
    """What `qemu-img info` tells of the image alone."""
    printed = command.run(["qemu-img", "info", "-U", "--output", "json", _named([image])], doing=doing)
    found: dict[str, Any] = json.loads(printed)
    return found


@dataclass(frozen=True)
class Header:
    """What a qcow2 image says of other files: the one below it, and the one that holds its data; empty for none.

    `backing` is resolved against the image's folder; a character that it could not have is U+FFFD.
    """

    backing: str
    backing_format: str
    data_file: str


def header(image: Image) -> Header:
    """Reads a qcow2 image's header, and opens nothing that it names below it.

    Raises:
        MigrationError: StorageFailed.
    """
    found = _information(image, doing=f"reading the header of {image.path}")
    return Header(
        backing=found.get("full-backing-filename") or found.get("backing-filename") or "",
        backing_format=found.get("backing-filename-format", ""),
        data_file=found.get("format-specific", {}).get("data", {}).get("data-file", ""),
    )


def backing_paths(path: Path, image_format: str) -> tuple[Path, ...]:
    """The files below an image that is not in use, as its headers name them: good for keeping a volume, not for more.

    Only files and block devices are opened: a header may name a FIFO, on which an open would wait, or a server.

    Raises:
        MigrationError: StorageFailed, also when a file of the chain is missing.
    """
    found: dict[Path, None] = {}
    read: set[Path] = set()
    while image_format == VolumeFormat.QCOW2 and path not in read:
        read.add(path)
        known = header(Image(path, VolumeFormat.QCOW2, _type_of(path)))
        names = _file_names(known.backing)
        found |= dict.fromkeys(names)
        if len(names) != 1 or known.backing.startswith(_JSON):
            break
        path, image_format = names[0], known.backing_format or _guessed_format(names[0])
    if missing := [name for name in found if not exists(name)]:
        raise MigrationError(Reason.STORAGE_FAILED, f"The backing chain of {path} goes on to {missing[0]}: it is gone.")
    return tuple(found)


def _guessed_format(path: Path) -> str:
    """For a header that does not state it, as old ones do not. A guest that fakes one only has more volumes kept."""
    if not is_regular(path) and not path.is_block_device():
        return ""
    with path.open("rb") as opened:
        return VolumeFormat.QCOW2 if opened.read(len(_QCOW2_MAGIC)) == _QCOW2_MAGIC else ""


def _type_of(path: Path) -> StorageType:
    if is_regular(path):
        return StorageType.FILE
    if path.is_block_device():
        return StorageType.BLOCK
    raise MigrationError(
        Reason.STORAGE_FAILED, f"While reading the backing chain of {path}: it is no file and no block device."
    )


def _file_names(backing: str) -> list[Path]:
    """The files that a header's word for what is below it names: none where it names a server, say."""
    if backing.startswith(_JSON):
        try:
            found = _file_names_in(json.loads(backing.removeprefix(_JSON)))
        except ValueError:
            return []
        return [Path(name) for name in found if name.startswith("/")]
    name = backing.removeprefix("file:")
    return [Path(name)] if name.startswith("/") else []


def _file_names_in(value: object) -> list[str]:
    if not isinstance(value, dict):
        return []
    own = [found for key, found in value.items() if key.rpartition(".")[2] == "filename" and isinstance(found, str)]
    return own + [name for inner in value.values() for name in _file_names_in(inner)]


def copy(
    chain: Sequence[Image],
    destination: Image,
    *,
    below: Image | None,
    target_is_zero: bool,
    bandwidth_bytes_per_second: int | None,
    on_progress: Callable[[float], None],
    keep_on: Callable[[], bool],
) -> bool:
    """Copies a chain that nobody writes to into an existing image.

    With `below`, only the top of the chain is copied, as the rest of it is under the destination already: `below`.
    `on_progress` gets the share done, 0 to 1.

    Returns:
        True when done, False when `keep_on` said no; the copy can then be started again onto the same volume.

    Raises:
        MigrationError: CopyFailed.
    """
    source = chain[-1]
    coroutines = _coroutines(bandwidth_bytes_per_second)
    arguments = ["qemu-img", "convert", "-p", "-n", "-U", "-m", str(coroutines)]
    arguments += ["-T", _cache(source), "-t", _cache(destination), "-O", destination.format]
    if below is not None:
        arguments += ["-B", str(below.path), "-F", below.format]
    elif target_is_zero:
        arguments += ["--target-is-zero"]
    if bandwidth_bytes_per_second is not None:
        arguments += ["-r", str(bandwidth_bytes_per_second)]

    def parse(printed: str) -> None:
        if found := _PROGRESS.findall(printed):
            on_progress(float(found[-1]) / 100)

    return command.run_with_progress(
        [*arguments, _named(chain), str(destination.path)],
        doing=f"copying {source.path} to {destination.path}",
        failure=Reason.COPY_FAILED,
        on_output=parse,
        keep_on=keep_on,
    )


def _coroutines(bandwidth_bytes_per_second: int | None) -> int:
    """As many as are of use below the limit.

    qemu-img counts as done what it has in flight: with too many, a slow copy would seem to be at its end at once.
    """
    if bandwidth_bytes_per_second is None:
        return _COROUTINES
    return max(1, min(bandwidth_bytes_per_second // (4 * _BYTES_IN_FLIGHT), _COROUTINES))


def commit(overlay: Image, base: Image) -> None:
    """Merges an overlay into the volume below it while no VM runs on them.

    Raises:
        MigrationError: MergeFailed.
    """
    command.run(
        ["qemu-img", "commit", "-q", "-d", "-f", overlay.format, "-b", str(base.path), str(overlay.path)],
        doing=f"merging {overlay.path} into {base.path}",
        failure=Reason.MERGE_FAILED,
        timeout=_WHOLE_DISK_SECONDS,
    )


def is_equal(one: Sequence[Image], other: Sequence[Image]) -> bool:
    """Whether two chains that nobody writes to hold the same data.

    Raises:
        MigrationError: StorageFailed.
    """
    status = command.status(
        ["qemu-img", "compare", "-q", _named(one), _named(other)],
        doing=f"comparing {one[-1].path} with {other[-1].path}",
        accepted=(0, 1),
        timeout=_WHOLE_DISK_SECONDS,
    )
    return status == 0


def supports_direct_io(path: Path) -> bool:
    """Whether the file or device can be opened with O_DIRECT, which cache=none and io=native need."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _cache(image: Image) -> str:
    return "none" if supports_direct_io(image.path) else "writeback"


def require_exact_size(image: Image, size_bytes: int, capacity: int) -> None:
    """A raw volume on block storage is exactly as large as the disk, or QEMU refuses the pivot.

    Raises:
        MigrationError: InvalidSpec.
    """
    if image.format is VolumeFormat.RAW and image.type is StorageType.BLOCK and size_bytes != capacity:
        raise MigrationError(
            Reason.INVALID_SPEC,
            f"The disk has {capacity} bytes, but {image.path} can only have {size_bytes}: a raw volume must match "
            "exactly. Use format: qcow2, or resize the disk to a multiple of the destination's extent.",
        )
