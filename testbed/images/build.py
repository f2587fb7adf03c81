"""The images' archives, each set kept under the digest of what it was built from."""

import fcntl
import hashlib
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.binaries import cache_directory
from testbed.images.base import ensure_base
from testbed.images.host_settings import write_host_settings
from testbed.images.storage import Storage, open_storage

OPERATOR_NAME = "localhost/diskmigration-operator:dev"
AGENT_NAME = "localhost/diskmigration-agent:dev"
PAUSE_NAME = "localhost/diskmigration-pause:dev"

_REPOSITORY = Path(__file__).resolve().parents[2]
_PAUSE = Path(__file__).resolve().parent / "pause"
# All that the Dockerfile takes; see also .dockerignore.
_SOURCES = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "requirements/build.lock",
    "requirements/operator.lock",
    "requirements/agent.lock",
    "operator/diskmigration",
)
# The stage that both programs' packages come from: named, its layers are kept for the next build.
_PROJECT_NAME = "localhost/diskmigration-project:dev"
_KEPT_SETS = 2
# Somebody may still be loading one that is older than those.
_KEPT_SECONDS = 600


@dataclass(frozen=True)
class Image:
    """An image as a file: `archive` (docker-archive) holds it under `name`."""

    name: str
    archive: Path


@dataclass(frozen=True)
class Images:
    """What a cluster of this project runs."""

    operator: Image
    agent: Image
    pause: Image


def build_images() -> Images:
    """Return the images of the checkout as it is now, built where they are missing.

    A change of Python sources alone takes some seconds; nothing changed, none. Parallel calls wait for each other. The
    archives' paths have the digest of the sources: the same path holds the same images.

    Raises:
        TestbedError: buildah, debootstrap or gcc failed; the message has their output.
    """
    with reserved_directory() as (directory, scratch):
        # A copy: the checkout may change while the images are built.
        context = scratch / "context"
        built = directory / f"set-{_take_sources(context)}"
        if not built.exists():
            print("Building the images (some minutes at first, seconds afterwards)", file=sys.stderr, flush=True)
            _build(open_storage(directory, scratch), context, scratch, _images_in(scratch / "built"))
            # Renamed into its place when whole: an interrupted build leaves nothing that looks done.
            (scratch / "built").rename(built)
        built.touch()
        _remove_old_sets(directory)
    return _images_in(built)


@contextmanager
def reserved_directory() -> Iterator[tuple[Path, Path]]:
    """Give this process alone the directory of the images for the time of the block, and an empty one in it."""
    directory = cache_directory() / "images"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _emptied(directory / "unfinished") as scratch:
            yield directory, scratch


@contextmanager
def _emptied(directory: Path) -> Iterator[Path]:
    """Make the directory for the time of the block, without what an interrupted one left there."""
    _remove(directory)
    directory.mkdir()
    try:
        yield directory
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)


def _images_in(directory: Path) -> Images:
    return Images(
        operator=Image(OPERATOR_NAME, directory / "operator.tar"),
        agent=Image(AGENT_NAME, directory / "agent.tar"),
        pause=Image(PAUSE_NAME, directory / "pause.tar"),
    )


def _take_sources(context: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        copy = context / path.relative_to(_REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        digest.update(f"\n{path.relative_to(_REPOSITORY)}\n".encode() + copy.read_bytes())
    # How they are built counts as well.
    for path in sorted(
        each for each in _PAUSE.parent.rglob("*") if each.suffix in {".py", ".c", ""} and each.is_file()
    ):
        digest.update(f"\n{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _sources() -> Iterator[Path]:
    for source in _SOURCES:
        path = _REPOSITORY / source
        if path.is_dir():
            yield from (each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
        else:
            yield path


def _build(storage: Storage, context: Path, scratch: Path, images: Images) -> None:
    storage.prune()
    ensure_base(storage)
    volumes = write_host_settings(scratch)
    storage.build(context, name=_PROJECT_NAME, target="project", volumes=volumes)
    storage.build(context, name=OPERATOR_NAME, target="operator", volumes=volumes)
    storage.build(context, name=AGENT_NAME, target="agent", volumes=volumes)
    pause = scratch / "pause"
    shutil.copytree(_PAUSE, pause)
    processes.run(["gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", pause / "pause", pause / "pause.c"])
    storage.build(pause, name=PAUSE_NAME)
    storage.prune()
    images.pause.archive.parent.mkdir()
    for image in (images.operator, images.agent, images.pause):
        storage.write_archive(image.name, image.archive)


def _remove_old_sets(directory: Path) -> None:
    by_age = sorted((time.time() - built.stat().st_mtime, built) for built in directory.glob("set-*"))
    for age_seconds, old in by_age[_KEPT_SETS:]:
        if age_seconds > _KEPT_SECONDS:
            shutil.rmtree(old)
