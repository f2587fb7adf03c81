"""qemu-img: images made, measured and filled. Formats are always stated: an image's first bytes are the guest's.

A chain is base first, and says all that is opened: what an image's own header names below it is the word of whoever
made the image.

Nothing is read through the host's page cache where that can be helped: QEMU writes past it, and of a block device it
may keep what was there before. Linux drops cached pages before such a write begins, but not again when it has ended.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage import access, command
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.agent.storage.qcow2_limits import CLUSTER_BYTES, CLUSTER_BYTES_BY_SECTOR
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType

_PROGRESS = re.compile(r"\((\d+(?:\.\d+)?)/100%\)")
_JSON = "json:"
_BY_SECTOR = f"cluster_size={CLUSTER_BYTES_BY_SECTOR},extended_l2=on"
"""Subclusters of 512 bytes: a write never makes QEMU fill up more than what is written from the volume below."""
LONGEST_NAME_BYTES = 32 * 4096 - 1
"""MAX_ARG_STRLEN of Linux's include/uapi/linux/binfmts.h, without the NUL: the longest argument of a program."""
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
    """`qemu-img measure`, in bytes: for the data there is, and for a disk written from end to end.

    Of a qcow2 both count the tables of the whole disk, although there are only those that its data needs.
    """

    required_bytes: int
    fully_allocated_bytes: int

    def data_bytes(self, capacity_bytes: int, *, cluster_bytes: int = CLUSTER_BYTES) -> int:
        """Return the data of a qcow2 of that virtual size and those clusters, without any tables."""
        whole = -(-capacity_bytes // cluster_bytes) * cluster_bytes
        return self.required_bytes - self.fully_allocated_bytes + whole

    def needed_bytes(self, storage: StorageType, capacity_bytes: int) -> int:
        """Return the room that a copy takes at least: a block volume has its tables' from the start, a file has not."""
        return self.data_bytes(capacity_bytes) if storage is StorageType.FILE else self.required_bytes


def create(
    image: Image, capacity_bytes: int, *, backing: Image | None, preallocate: bool = False, by_sector: bool = False
) -> None:
    """Formats an existing volume; nothing is read from the backing volume, which may not be filled yet.

    A raw image on a block device needs no formatting, but its capacity must be exact: virtual sizes must match.
    With `by_sector` whatever is written to it lands alone, so that it can be written to before it has a backing volume.
    With `preallocate` a file takes its space now: what a full disk would answer later, it answers here. A block volume
    has its space anyway. Its clusters are never allocated before they are written, as the device may hold what somebody
    else has deleted, which the guest would then read.

    Raises:
        MigrationError: StorageFailed; NoRoomError.
    """
    if image.format is VolumeFormat.RAW and image.type is StorageType.BLOCK:
        return
    options = []
    if backing is not None:
        options += ["-u", "-b", str(backing.path), "-F", backing.format]
    if by_sector:
        options += ["-o", _BY_SECTOR]
    if preallocate and image.type is StorageType.FILE:
        options += ["-o", "preallocation=falloc"]
    command.run(
        ["qemu-img", "create", "-q", "-f", image.format, *options, str(image.path), str(capacity_bytes)],
        doing=f"formatting {image.path}",
        credentials=_credentials([], written=[image]),
    )


def is_zero_when_fresh(image: Image) -> bool:
    """Whether an image that was just made reads as zeroes: a raw block volume holds what somebody left there."""
    return image.format is not VolumeFormat.RAW or image.type is not StorageType.BLOCK


def _named(chain: Sequence[Image], *, is_target: bool = False) -> str:
    """Return the chain as a json: pseudo-protocol name, whose length grows with the chain's and no faster.

    A target's top is opened with the cache mode of `qemu-img convert -t`, and what lies below it without a lock, as a
    VM may have it open, and by itself, as a tmpfs has no direct I/O before Linux 6.6.
    """
    top = len(chain) - 1
    node: dict[str, object] | None = None
    for position, image in enumerate(chain):
        protocol = "host_device" if image.type is StorageType.BLOCK else "file"
        file: dict[str, object] = {"driver": protocol, "filename": str(image.path)}
        shared: dict[str, object] = {}
        if not is_target or position < top:
            file["cache"] = {"direct": supports_direct_io(image.path)}
        if is_target and position < top:
            shared = {"read-only": True, "force-share": True}
        below = {"backing": node} if image.format is VolumeFormat.QCOW2 else {}
        node = {"driver": image.format, "file": file, **shared, **below}
    return _JSON + json.dumps(node, separators=(",", ":"))


def name_bytes(chain: Iterable[Image]) -> int:
    """Return how long the argument is at most that tells qemu-img of the chain, base first."""
    return len(_named(tuple(chain), is_target=True))


def measure(chain: Sequence[Image], *, target: VolumeFormat) -> Measure:
    """How large a volume of the target format must be to hold the data of the whole chain.

    Raises:
        MigrationError: StorageFailed.
    """
    printed = command.run(
        ["qemu-img", "measure", "-U", "--output", "json", "-O", target, _named(chain)],
        doing=f"measuring {chain[-1].path}",
        credentials=_credentials(chain),
    )
    found = json.loads(printed)
    # A bitmap of a backup needs room of its own, which the required size leaves out.
    return Measure(found["required"] + found.get("bitmaps", 0), found["fully-allocated"] + found.get("bitmaps", 0))


def data_bytes(image: Image, *, cluster_bytes: int, capacity_bytes: int) -> int:
    """Return what one qcow2 volume holds of its own, in whole clusters of that size. It may be open elsewhere.

    Raises:
        MigrationError: StorageFailed.
    """
    options = f"cluster_size={cluster_bytes}"
    printed = command.run(
        ["qemu-img", "measure", "-U", "--output", "json", "-O", "qcow2", "-o", options, _named([image])],
        doing=f"measuring what {image.path} holds",
        credentials=_credentials([image]),
        timeout=_WHOLE_DISK_SECONDS,
    )
    found = json.loads(printed)
    return Measure(found["required"], found["fully-allocated"]).data_bytes(capacity_bytes, cluster_bytes=cluster_bytes)


def copy(
    chain: Sequence[Image],
    onto: Sequence[Image],
    *,
    target_is_zero: bool,
    bandwidth_bytes_per_second: int | None,
    on_progress: Callable[[float], None],
    keep_on: Callable[[], bool],
    alone_bytes: int | None = None,
    with_bitmaps: bool = False,
) -> bool:
    """Copy a chain that nobody writes to onto an existing one.

    With more than one volume in `onto`, base first, only the top of the chain is copied, onto the top of that one: the
    rest of it is, or is going to be, below there. Then `alone_bytes`, the virtual size of the top, says that the copy
    needs nothing of what lies below, as whole clusters are copied: nothing below is opened. To open a chain takes QEMU
    a time that grows with the third power of its length.
    With `with_bitmaps` the persistent dirty bitmaps of the top are carried, which qcow2 volumes of version 3 can have.
    One that QEMU marks as inconsistent is left out: nothing can be done with it but to remove it.
    `on_progress` gets the share done, 0 to 1.

    Returns:
        True when done, False when `keep_on` said no; the copy can then be started again onto the same volume.

    Raises:
        MigrationError: CopyFailed; NoRoomError.
    """
    source, destination = chain[-1], onto[-1]
    coroutines = _coroutines(bandwidth_bytes_per_second)
    arguments = ["qemu-img", "convert", "-p", "-n", "-U", "-m", str(coroutines)]
    arguments += ["-t", _cache(destination)]
    if len(onto) > 1:
        arguments += ["-B", str(onto[-2].path), "-F", onto[-2].format]
    elif target_is_zero:
        arguments += ["--target-is-zero"]
    if with_bitmaps:
        arguments += ["--bitmaps", "--skip-broken-bitmaps"]
    if bandwidth_bytes_per_second is not None:
        arguments += ["-r", str(bandwidth_bytes_per_second)]

    def parse(printed: str) -> None:
        if found := _PROGRESS.findall(printed):
            on_progress(float(found[-1]) / 100)

    credentials = _credentials([*chain, *onto[:-1]], written=[destination])
    with ExitStack() as stack:
        blank = stack.enter_context(_blank(alone_bytes)) if alone_bytes is not None and len(onto) > 1 else None
        if blank is not None:
            chain, onto = (blank.image, source), (blank.image, destination)
        return command.run_with_progress(
            [*arguments, "-O", destination.format, _named(chain), _named(onto, is_target=True)],
            doing=f"copying {source.path} to {destination.path}",
            failure=Reason.COPY_FAILED,
            on_output=parse,
            keep_on=keep_on,
            credentials=credentials,
            descriptors=(blank.descriptor,) if blank is not None else (),
        )


@dataclass(frozen=True)
class _Blank:
    """An image without data that only a program with its descriptor can open."""

    image: Image
    descriptor: int


@contextmanager
def _blank(size_bytes: int) -> Iterator[_Blank]:
    """Lend a raw image of that size, which stands for what lies below a volume that is copied alone.

    QEMU's null driver cannot: a backing file that names no file is opened by the name in the header of the top.
    """
    descriptor = os.memfd_create("blank", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size_bytes)
        yield _Blank(Image(Path(f"/proc/self/fd/{descriptor}"), VolumeFormat.RAW, StorageType.FILE), descriptor)
    finally:
        os.close(descriptor)


def _coroutines(bandwidth_bytes_per_second: int | None) -> int:
    """As many as are of use below the limit.

    qemu-img counts as done what it has in flight: with too many, a slow copy would seem to be at its end at once.
    """
    if bandwidth_bytes_per_second is None:
        return _COROUTINES
    return max(1, min(bandwidth_bytes_per_second // (4 * _BYTES_IN_FLIGHT), _COROUTINES))


def commit(overlay: Image, base: Image) -> None:
    """Merges an overlay into the volume below it while no VM runs on them.

    A merge that was killed as it ended may have taken clusters that it entered nowhere: where there is no room for them
    twice, they are given back first.

    Raises:
        MigrationError: MergeFailed; NoRoomError.
    """
    try:
        _commit(overlay, base)
    except NoRoomError:
        if base.format is not VolumeFormat.QCOW2:
            raise
        command.run(
            ["qemu-img", "check", "-q", "-r", "leaks", _named([base])],
            doing=f"giving back what an interrupted merge took in {base.path}",
            failure=Reason.MERGE_FAILED,
            timeout=_WHOLE_DISK_SECONDS,
            credentials=_credentials([], written=[base]),
        )
        _commit(overlay, base)


def _commit(overlay: Image, base: Image) -> None:
    command.run(
        [
            "qemu-img",
            "commit",
            "-q",
            "-d",
            "-t",
            _cache(overlay),
            "-f",
            overlay.format,
            "-b",
            str(base.path),
            str(overlay.path),
        ],
        doing=f"merging {overlay.path} into {base.path}",
        failure=Reason.MERGE_FAILED,
        timeout=_WHOLE_DISK_SECONDS,
        credentials=_credentials([], written=[base, overlay]),
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
        credentials=_credentials([*one, *other]),
        is_root_elsewhere=True,
    )
    return status == 0


def has_own_data(image: Image) -> bool:
    """Return whether a qcow2 volume holds anything by itself, whatever lies below it: what was written, or zeroed.

    A volume that was only formatted holds nothing, and nothing is lost with it. Only its metadata are read.

    Raises:
        MigrationError: StorageFailed.
    """
    protocol = "host_device" if image.type is StorageType.BLOCK else "file"
    file = {"driver": protocol, "filename": str(image.path), "cache": {"direct": supports_direct_io(image.path)}}
    alone = _JSON + json.dumps({"driver": image.format, "backing": None, "file": file})
    printed = command.run(
        ["qemu-img", "map", "-U", "--output", "json", alone],
        doing=f"looking for what {image.path} holds",
        timeout=_WHOLE_DISK_SECONDS,
        credentials=_credentials([image]),
    )
    return any(part["present"] for part in json.loads(printed))


def supports_direct_io(path: Path) -> bool:
    """Whether the file or device can be opened with O_DIRECT, which cache=none and io=native need."""
    try:
        os.close(access.open_image(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def _credentials(read: Sequence[Image], *, written: Sequence[Image] = ()) -> Credentials | None:
    return access.credentials_for([image.path for image in read], [image.path for image in written])


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
