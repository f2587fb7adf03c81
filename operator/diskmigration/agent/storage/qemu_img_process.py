"""Starting qemu-img: only so many processes at once on the node, and each with a bound on its memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from diskmigration.agent.storage import access, long_command
from diskmigration.agent.storage.command import Ended
from diskmigration.agent.storage.long_command import Watch
from diskmigration.agent.storage.process_limit import DEFAULT_LIMIT, ProcessLimit, Wait, Work
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.errors import Reason

_ADDRESS_SPACE_BYTES = 8 * 2**30
"""Far more than qemu-img takes, mostly for the stacks and the arenas of its threads: what has run wild ends here."""
_ADDRESS_SPACE_BYTES_BY_IMAGE = 64 * 2**20
"""Twice the largest cache of tables that QEMU makes for one image; see QEMU's docs/qcow2-cache.txt."""

_processes = ProcessLimit(DEFAULT_LIMIT)


def limit_processes(limit: int) -> None:
    """Run at most that many processes at once; see process_limit. More are waited for."""
    _processes.set(limit)


def wait_of(volumes: Iterable[Path]) -> Wait | None:
    """Return since when a process waits that is to work on one of the volumes, or None."""
    return _processes.wait_of(volumes)


def running() -> int:
    """Return how many processes run."""
    return _processes.running()


def waiting() -> int:
    """Return how many processes wait."""
    return _processes.waiting()


def run(
    arguments: Sequence[str],
    *,
    doing: str,
    watch: Watch,
    failure: Reason = Reason.STORAGE_FAILED,
    accepted: Sequence[int] = (0,),
    read: Sequence[Image] = (),
    written: Sequence[Image] = (),
    is_copy: bool = False,
    pause_seconds: float = 0.0,
    descriptors: Sequence[int] = (),
) -> Ended:
    """Run qemu-img, which opens those images, as soon as there is a place for it; return how it ended.

    `is_copy` and `pause_seconds` are as in Work.

    Raises:
        StoppedError: `watch.keep_on` said no, while it waited or ran.
        MigrationError: it failed, for the reason `failure`; NoRoomError.
    """
    read_paths, written_paths = [image.path for image in read], [image.path for image in written]
    folders = frozenset(path.parent for path in (*read_paths, *written_paths))
    credentials = access.credentials_for(read_paths, written_paths)
    # What is read may lie below other disks too.
    volumes = frozenset(written_paths or read_paths[-1:])
    place = _processes.take(Work(volumes, folders, is_copy, pause_seconds), watch.keep_on)

    def note_beat() -> None:
        place.beat()
        watch.on_beat()

    return long_command.run(
        ["qemu-img", *arguments],
        doing=doing,
        failure=failure,
        watch=replace(watch, on_beat=note_beat),
        accepted=accepted,
        credentials=credentials,
        descriptors=descriptors,
        memory_bytes=_ADDRESS_SPACE_BYTES + _ADDRESS_SPACE_BYTES_BY_IMAGE * (len(read) + len(written)),
        on_end=place.free,
    )
