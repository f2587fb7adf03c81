"""qemu-img: images made, measured and filled. Formats are always stated: an image's first bytes are the guest's.

A chain is base first, and says all that is opened: what an image's own header names below it is the word of whoever
made the image.

Nothing is read through the host's page cache where that can be helped: QEMU writes past it, and of a block device it
may keep what was there before. Linux drops cached pages before such a write begins, but not again when it has ended.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from diskmigration.agent.storage import process_activity, qemu_image, qemu_img_process
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.agent.storage.long_command import KeepOn, StoppedError, Watch, always, ignore
from diskmigration.agent.storage.qcow2_limits import CLUSTER_BYTES_BY_SECTOR
from diskmigration.agent.storage.qemu_image import Image, Measure
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import Reason
from diskmigration.api.storage_domain import StorageType

_PROGRESS = re.compile(r"\((\d+(?:\.\d+)?)/100%\)")
_BY_SECTOR = f"cluster_size={CLUSTER_BYTES_BY_SECTOR},extended_l2=on"
"""Subclusters of 512 bytes: a write never makes QEMU fill up more than what is written from the volume below."""
_COROUTINES = 16  # qemu-img's own maximum: copies of small allocated runs are bound by latency
_BYTES_IN_FLIGHT = 2 * 2**20  # what each of them has in flight, as qemu-img's buffers are


def create(
    image: Image,
    capacity_bytes: int,
    *,
    backing: Image | None,
    preallocate: bool = False,
    by_sector: bool = False,
    keep_on: KeepOn = always,
) -> None:
    """Format an existing volume; nothing is read from the backing volume, which may not be filled yet.

    A raw image on a block device needs no formatting, but its capacity must be exact: virtual sizes must match.
    With `by_sector` whatever is written to it lands alone, so that it can be written to before it has a backing volume.
    With `preallocate` a file takes its space now: what a full disk would answer later, it answers here. A block volume
    has its space anyway. Its clusters are never allocated before they are written, as the device may hold what somebody
    else has deleted, which the guest would then read.

    Raises:
        StoppedError: `keep_on` said no.
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
    qemu_img_process.run(
        ["create", "-q", "-f", image.format, *options, str(image.path), str(capacity_bytes)],
        doing=f"formatting {image.path}",
        watch=Watch(keep_on),
        written=[image],
    )


def measure(chain: Sequence[Image], *, target: VolumeFormat, keep_on: KeepOn = always) -> Measure:
    """Return how large a volume of the target format must be to hold the data of the whole chain.

    Raises:
        StoppedError: `keep_on` said no.
        MigrationError: StorageFailed.
    """
    ended = qemu_img_process.run(
        ["measure", "-U", "--output", "json", "-O", target, qemu_image.named(chain)],
        doing=f"measuring {chain[-1].path}",
        watch=Watch(keep_on),
        read=chain,
    )
    found = json.loads(ended.printed)
    # A bitmap of a backup needs room of its own, which the required size leaves out.
    return Measure(found["required"] + found.get("bitmaps", 0), found["fully-allocated"] + found.get("bitmaps", 0))


def data_bytes(image: Image, *, cluster_bytes: int, capacity_bytes: int, keep_on: KeepOn = always) -> int:
    """Return what one qcow2 volume holds of its own, in whole clusters of that size. It may be open elsewhere.

    Raises:
        StoppedError: `keep_on` said no.
        MigrationError: StorageFailed.
    """
    options = f"cluster_size={cluster_bytes}"
    ended = qemu_img_process.run(
        ["measure", "-U", "--output", "json", "-O", "qcow2", "-o", options, qemu_image.named([image])],
        doing=f"measuring what {image.path} holds",
        watch=Watch(keep_on),
        read=[image],
    )
    found = json.loads(ended.printed)
    return Measure(found["required"], found["fully-allocated"]).data_bytes(capacity_bytes, cluster_bytes=cluster_bytes)


def copy(
    chain: Sequence[Image],
    onto: Sequence[Image],
    *,
    target_is_zero: bool,
    bandwidth_bytes_per_second: int | None,
    on_progress: Callable[[float], None],
    keep_on: KeepOn,
    on_beat: Callable[[], None] = ignore,
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
    `on_progress` gets the share done, 0 to 1, in steps of a percent. `on_beat` is called as long as anything is read or
    written between them. How long nothing may be done is for `keep_on` to say, as the user sets it.

    Returns:
        True when done, False when `keep_on` said no; the copy can then be started again onto the same volume.

    Raises:
        MigrationError: CopyFailed; NoRoomError.
    """
    source, destination = chain[-1], onto[-1]
    coroutines = _coroutines(bandwidth_bytes_per_second)
    arguments = ["convert", "-p", "-n", "-U", "-m", str(coroutines), "-t", _cache(destination)]
    if len(onto) > 1:
        arguments += ["-B", str(onto[-2].path), "-F", onto[-2].format]
    elif target_is_zero:
        arguments += ["--target-is-zero"]
    if with_bitmaps:
        arguments += ["--bitmaps", "--skip-broken-bitmaps"]
    arguments += _rate(bandwidth_bytes_per_second)
    read = [*chain, *onto[:-1]]
    with ExitStack() as stack:
        blank = stack.enter_context(qemu_image.blank(alone_bytes)) if alone_bytes is not None and onto[1:] else None
        if blank is not None:
            chain, onto = (blank.image, source), (blank.image, destination)
        try:
            qemu_img_process.run(
                [*arguments, "-O", destination.format, qemu_image.named(chain), qemu_image.named(onto, is_target=True)],
                doing=f"copying {source.path} to {destination.path}",
                failure=Reason.COPY_FAILED,
                watch=Watch(keep_on, _shares(on_progress), on_beat, patience_seconds=math.inf),
                read=read,
                written=[destination],
                is_copy=True,
                pause_seconds=coroutines * _BYTES_IN_FLIGHT / (bandwidth_bytes_per_second or math.inf),
                descriptors=(blank.descriptor,) if blank is not None else (),
            )
        except StoppedError:
            return False
    return True


def _shares(on_progress: Callable[[float], None]) -> Callable[[str], None]:
    """Return what reads the progress that qemu-img prints."""

    def read(printed: str) -> None:
        if percents := _PROGRESS.findall(printed):
            on_progress(float(percents[-1]) / 100)

    return read


def _rate(bandwidth_bytes_per_second: int | None) -> list[str]:
    return [] if bandwidth_bytes_per_second is None else ["-r", str(bandwidth_bytes_per_second)]


def _coroutines(bandwidth_bytes_per_second: int | None) -> int:
    """Return as many as are of use below the limit.

    qemu-img counts as done what it has in flight: with too many, a slow copy would seem to be at its end at once.
    """
    if bandwidth_bytes_per_second is None:
        return _COROUTINES
    return max(1, min(bandwidth_bytes_per_second // (4 * _BYTES_IN_FLIGHT), _COROUTINES))


def commit(
    overlay: Image,
    base: Image,
    *,
    bandwidth_bytes_per_second: int | None = None,
    on_progress: Callable[[float], None] = ignore,
    keep_on: KeepOn = always,
) -> None:
    """Merge an overlay into the volume below it while no VM runs on them.

    A merge that was killed as it ended may have taken clusters that it entered nowhere: where there is no room for them
    twice, they are given back first. `on_progress` gets the share done, 0 to 1.

    Raises:
        StoppedError: `keep_on` said no; the overlay is whole, and may be merged again.
        MigrationError: MergeFailed; NoRoomError.
    """
    bandwidth = bandwidth_bytes_per_second
    watch = Watch(keep_on, _shares(on_progress), patience_seconds=process_activity.patience_at(bandwidth))
    try:
        _commit(overlay, base, bandwidth, watch)
    except NoRoomError:
        if base.format is not VolumeFormat.QCOW2:
            raise
        qemu_img_process.run(
            ["check", "-q", "-r", "leaks", qemu_image.named([base])],
            doing=f"giving back what an interrupted merge took in {base.path}",
            failure=Reason.MERGE_FAILED,
            watch=Watch(keep_on),
            written=[base],
        )
        _commit(overlay, base, bandwidth, watch)


def _commit(overlay: Image, base: Image, bandwidth: int | None, watch: Watch) -> None:
    qemu_img_process.run(
        [
            *["commit", "-p", "-d", *_rate(bandwidth), "-t", _cache(overlay), "-f", overlay.format],
            *["-b", str(base.path), str(overlay.path)],
        ],
        doing=f"merging {overlay.path} into {base.path}",
        failure=Reason.MERGE_FAILED,
        watch=watch,
        written=[base, overlay],
        pause_seconds=watch.patience_seconds - process_activity.PATIENCE_SECONDS,
    )


def is_equal(one: Sequence[Image], other: Sequence[Image], *, keep_on: KeepOn = always) -> bool:
    """Return whether two chains that nobody writes to hold the same data.

    Raises:
        StoppedError: `keep_on` said no.
        MigrationError: StorageFailed.
    """
    ended = qemu_img_process.run(
        ["compare", "-p", qemu_image.named(one), qemu_image.named(other)],
        doing=f"comparing {one[-1].path} with {other[-1].path}",
        watch=Watch(keep_on),
        accepted=(0, 1),
        read=[*one, *other],
    )
    return ended.status == 0


def has_own_data(image: Image, *, keep_on: KeepOn = always) -> bool:
    """Return whether a qcow2 volume holds anything by itself, whatever lies below it: what was written, or zeroed.

    A volume that was only formatted holds nothing, and nothing is lost with it. Only its metadata are read.

    Raises:
        StoppedError: `keep_on` said no.
        MigrationError: StorageFailed.
    """
    ended = qemu_img_process.run(
        ["map", "-U", "--output", "json", qemu_image.named_alone(image)],
        doing=f"looking for what {image.path} holds",
        watch=Watch(keep_on),
        read=[image],
    )
    return any(part["present"] for part in json.loads(ended.printed))


def _cache(image: Image) -> str:
    return "none" if qemu_image.supports_direct_io(image.path) else "writeback"
