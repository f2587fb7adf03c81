"""A server of storage that fails or hangs: what is needed there may need anything, and nobody else waits for it."""

import errno
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import exports
from testbed.exports import HANG, Faults
from tests.integration.migrations.machines import CAPACITY_BYTES, Domain, Machine
from tests.integration.migrations.stack import Stack
from tests.integration.migrations.test_removal import clone, make_image, retained, run
from tests.variants import first_by_day

Machines = Callable[..., Machine]

ERRORS = [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT]


@dataclass(frozen=True)
class Export:
    """A mount of a server that may fail or hang; `source` is its directory as the server sees it."""

    faults: Faults
    at: Path
    source: Path


@pytest.fixture
def export(stack: Stack, scratch: Path) -> Iterator[Export]:
    """Asked for before `machines`, whose VMs have to be gone at its end."""
    source, at = scratch / "source", scratch / "mount"
    source.mkdir()
    at.mkdir()
    with exports.faulty(source, at) as faults:
        yield Export(faults, at, source)


def overlay(path: Path, below: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", "qcow2", path, str(CAPACITY_BYTES))


@dataclass
class Neighbours:
    """A base, and two VMs on it: one runs and is moved; the other is off and has a top or a middle layer elsewhere."""

    stack: Stack
    domain: Domain
    base: str
    moved: Machine
    other: Machine
    elsewhere: str


@pytest.fixture
def neighbours(stack: Stack, export: Export, machines: Machines, request: pytest.FixtureRequest) -> Neighbours:
    kind, position = request.param.split()
    domain = stack.domains[kind]
    base_name = f"base-{uuid.uuid4().hex[:8]}"
    base = make_image(domain, base_name)
    name = f"{position}-{uuid.uuid4().hex[:8]}"
    overlay(export.source / name, base)
    moved = clone(machines, kind, base)
    other = machines(kind, below=(export.at / name, "qcow2"), start=False)
    if position == "top":
        other.set_source(str(export.at / name), "file")
        # No image of the storage domain tells of it.
        run("qemu-img", "rebase", "-u", "-b", "", other.volumes[-1])
    return Neighbours(stack, domain, base_name, moved, other, f"/{name}")


OPERATIONS = [(operation, error) for error in [*ERRORS, HANG] for operation in ("getattr", "open", "read")]
"""What is asked of an image: what it is, to be opened, its header."""
PLACES = [f"{kind} {position}" for position in ("top", "middle") for kind in ("file-a", "loop-a")]


@pytest.mark.parametrize("neighbours", first_by_day(PLACES), indirect=True)
@pytest.mark.parametrize(("operation", "error"), first_by_day(OPERATIONS))
def test_an_image_whose_server_fails_or_hangs_keeps_what_it_may_stand_on(
    neighbours: Neighbours, export: Export, operation: str, error: int
) -> None:
    with export.faults.answering(operation, error, neighbours.elsewhere):
        migration = neighbours.stack.migrate(neighbours.moved, "file-b")
        migration.succeed(seconds=120)
    assert neighbours.base in neighbours.domain.files()
    kept = retained(migration)
    assert list(kept) == [neighbours.base]
    neighbours.moved.verify()


@pytest.mark.nightly
@pytest.mark.parametrize("neighbours", first_by_day(PLACES), indirect=True)
@pytest.mark.parametrize("error", first_by_day([*ERRORS, HANG]))
def test_figures_of_a_file_system_that_cannot_be_had_are_no_reason_to_remove_a_volume(
    neighbours: Neighbours, export: Export, error: int
) -> None:
    with export.faults.answering("statfs", error):
        migration = neighbours.stack.migrate(neighbours.moved, "file-b")
        migration.succeed(seconds=120)
    assert neighbours.base in neighbours.domain.files()
    assert list(retained(migration)) == [neighbours.base]
    neighbours.moved.verify()


@pytest.fixture
def folder(stack: Stack, scratch: Path) -> Iterator[Export]:
    """A folder of the storage domain file-a that is a mount of another server. Asked for before `machines`."""
    source, at = scratch / "source", stack.domains["file-a"].root / f"folder-{uuid.uuid4().hex[:8]}"
    source.mkdir()
    at.mkdir()
    with exports.faulty(source, at) as faults:
        yield Export(faults, at, source)
    at.rmdir()


@pytest.mark.nightly
@pytest.mark.parametrize("error", first_by_day(ERRORS))
@pytest.mark.parametrize(
    ("operation", "path"),
    first_by_day([("readdir", "/"), ("getattr", "/clone"), ("open", "/clone"), ("read", "/clone"), ("readdir", "*")]),
)
def test_a_folder_of_the_storage_domain_that_cannot_be_read_keeps_what_its_images_may_stand_on(
    stack: Stack, folder: Export, machines: Machines, operation: str, path: str, error: int
) -> None:
    """A clone that no VM has yet is known by its image alone."""
    base = make_image(stack.domains["file-a"], f"base-{uuid.uuid4().hex[:8]}")
    overlay(folder.source / "clone", base)
    moved = clone(machines, "file-a", base)
    with folder.faults.answering(operation, error, path):
        migration = stack.migrate(moved, "file-b")
        migration.succeed(seconds=120)
    assert base.exists()
    assert list(retained(migration)) == [base.name]
    moved.verify()


@pytest.mark.parametrize("is_running", first_by_day([True, False]))
@pytest.mark.parametrize("kind", first_by_day(["file-a", "loop-a"]))
def test_a_process_that_has_a_file_open_on_a_mount_that_hangs_holds_nobody_up(
    stack: Stack, export: Export, machines: Machines, kind: str, is_running: bool
) -> None:
    """A move of a running VM and one of a VM that is off, each with all that it removes."""
    (export.source / "open").touch()
    machine = machines(kind, chain=2, start=is_running)
    files = stack.domains[kind].files()
    with (export.at / "open").open("rb"), export.faults.answering("getattr", HANG):
        migration = stack.migrate(machine, "file-b")
        migration.succeed()
    assert retained(migration) == {}
    assert not set(files) & set(stack.domains[kind].files())
    if not is_running:
        stack.host.virsh("start", machine.name, "--paused")
    machine.verify()
