"""What a migration makes can be opened by the QEMU that will open it: whoever owns it, and whoever may give it away.

libvirt as distributions run it, libvirt that leaves the owners of volumes alone (dynamic_ownership=0), and directories
as an NFS server exports them.
"""

import os
import pwd
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from testbed import exports, processes
from testbed.exports import ALL_SQUASH, ROOT_SQUASH, Squash
from testbed.libvirt_host import STOCK
from tests.integration.hosts import HOST, QEMU_SETTINGS
from tests.integration.migrations.as_it_was import AsItWas
from tests.integration.migrations.machines import Domain, Machine, empty
from tests.integration.migrations.moves import assert_moved, move
from tests.integration.migrations.stack import Stack, make_domain

Machines = Callable[..., Machine]
Export = Callable[..., "Exported"]

pytestmark = pytest.mark.skipif(HOST == "root", reason="QEMU that runs as root may open everything")

_USER = pwd.getpwnam("libvirt-qemu")
QEMU = (_USER.pw_uid, _USER.pw_gid)
ROOT = (0, 0)
SQUASHES = {squash.option: squash for squash in (ALL_SQUASH, ROOT_SQUASH)}


def of(path: Path | str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_uid, found.st_gid


def give(machine: Machine, owner: tuple[int, int] = QEMU, *, mode: int = 0o660) -> None:
    """Has the volumes of a VM belong to somebody, as an administrator does where libvirt leaves them alone."""
    for volume in machine.volumes:
        os.chown(volume, *owner)
        volume.chmod(mode)


def start(machine: Machine) -> None:
    machine.host.virsh("start", machine.name, "--paused")


@pytest.fixture
def fixed_owners(stack: Stack) -> Iterator[None]:
    """libvirt gives no volume to QEMU's user. Asked for before `machines`, whose VMs have to be gone at its end."""
    stack.host.set_qemu(replace(STOCK, changes_owners=False))
    yield
    stack.host.set_qemu(QEMU_SETTINGS)


@dataclass(frozen=True)
class Exported(Domain):
    """A storage domain on a mount of an export; `source` is the directory on its server."""

    source: Path = Path()

    def files(self) -> list[str]:
        """As they are on the server: root may not list them here."""
        return sorted(entry.name for entry in self.source.iterdir())


def nothing(_: Domain) -> None:
    """What an export holds that is made for the test alone."""


@contextmanager
def exported(
    stack: Stack, directory: Path, squash: Squash, owner: tuple[int, int], fill: Callable[[Domain], None]
) -> Iterator[Exported]:
    name = f"export-{uuid.uuid4().hex[:8]}"
    source, at = directory / f"{name}-source", directory / name
    for folder in (source, at):
        folder.mkdir()
    domain = Exported(name, "file", at, source)
    processes.run(["mount", "--bind", str(source), str(at)])
    try:
        fill(domain)
    finally:
        processes.run(["umount", str(at)])
    os.chown(source, *owner)
    # Where the owner is root, anybody may write, as on an export for everybody.
    source.chmod(0o711 if owner == QEMU else 0o777)
    with exports.mounted(source, at, squash):
        try:
            stack.make_ready({name: domain})
            yield domain
        finally:
            stack.control_plane.kubectl("delete", "storagedomain", name)
    empty(replace(domain, root=source))


@pytest.fixture
def export(stack: Stack, exports_directory: Path) -> Iterator[Export]:
    """Makes an exported storage domain. Asked for before `machines`, whose VMs have to be gone at its end."""
    with ExitStack() as ending:

        def make(
            squash: Squash, *, owner: tuple[int, int] = QEMU, fill: Callable[[Domain], None] = nothing
        ) -> Exported:
            domain = ending.enter_context(exported(stack, exports_directory, squash, owner, fill))
            # So that assert_moved finds it.
            stack.domains[domain.name] = domain
            ending.callback(stack.domains.pop, domain.name)
            return domain

        yield make


def machine_on(
    export: Export, machines: Machines, squash: Squash, *, owner: tuple[int, int] = QEMU, chain: int = 2
) -> tuple[Machine, Exported]:
    """A VM that is shut off on an export, with volumes that its server's administrator gave to QEMU's user."""
    made: list[Machine] = []

    def fill(domain: Domain) -> None:
        machine = machines(domain, chain=chain, start=False)
        give(machine)
        made.append(machine)

    domain = export(squash, owner=owner, fill=fill)
    return made[0], domain


@pytest.mark.parametrize(
    ("destination", "strategy"),
    [
        ("loop-b", "Snapshot"),
        pytest.param("file-b", "Direct", marks=pytest.mark.nightly),
        pytest.param("file-b", "Snapshot", marks=pytest.mark.nightly),
        pytest.param("loop-b", "Direct", marks=pytest.mark.nightly),
    ],
)
def test_a_running_vms_disk_moves_where_libvirt_leaves_owners_alone(
    stack: Stack, fixed_owners: None, machines: Machines, destination: str, strategy: str
) -> None:
    machine = machines("file-a", chain=2, start=False)
    give(machine)
    start(machine)

    uid = move(stack, machine, destination, strategy=strategy)

    assert_moved(stack, machine, "file-a", destination, uid, length=2)
    assert {of(path) for path, _ in machine.chain()} == {QEMU}
    machine.host.virsh("destroy", machine.name)
    start(machine)
    machine.verify()


@pytest.mark.parametrize("destination", ["loop-b", pytest.param("file-b", marks=pytest.mark.nightly)])
def test_a_shut_off_vm_starts_after_its_move_where_libvirt_leaves_owners_alone(
    stack: Stack, fixed_owners: None, machines: Machines, destination: str
) -> None:
    machine = machines("file-a", chain=2, start=False)
    give(machine)

    migration = stack.migrate(machine, destination)
    migration.succeed()

    start(machine)
    assert_moved(stack, machine, "file-a", destination, migration.uid, length=2)
    assert {of(path) for path, _ in machine.chain()} == {QEMU}
    machine.verify()


def assert_moves_and_starts_again(
    stack: Stack, machine: Machine, source: str, destination: str, *, length: int
) -> None:
    """The disk moves, and the VM, which was off or is ended for it, starts on what was made."""
    migration = stack.migrate(machine, destination)
    migration.succeed()

    if machine.state() != "shut off":
        machine.host.virsh("destroy", machine.name)
    start(machine)
    assert_moved(stack, machine, source, destination, migration.uid, length=length)
    machine.verify()


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "shut-off"])
@pytest.mark.parametrize("destination", ["file-b", "loop-b"])
@pytest.mark.nightly
def test_a_disk_moves_from_a_device_where_libvirt_leaves_owners_alone(
    stack: Stack, fixed_owners: None, machines: Machines, destination: str, *, is_running: bool
) -> None:
    machine = machines("loop-a", start=False)
    give(machine)
    if is_running:
        start(machine)

    assert_moves_and_starts_again(stack, machine, "loop-a", destination, length=1)


def test_a_volume_belongs_to_whom_the_old_one_belonged_when_its_vm_ends(stack: Stack, machines: Machines) -> None:
    somebody = (4711, 4712)
    machine = machines("file-a", chain=2, start=False)
    give(machine, somebody, mode=0o640)
    start(machine)
    assert of(machine.volumes[-1]) == QEMU, "libvirt has given it away"

    move(stack, machine, "file-b")

    active = Path(machine.chain()[0][0])
    assert of(active) == QEMU
    machine.host.virsh("destroy", machine.name)
    assert (of(active), active.stat().st_mode & 0o777) == (somebody, 0o640)
    start(machine)
    machine.verify()


def test_a_shut_off_vms_volumes_stay_whose_they_are(stack: Stack, machines: Machines) -> None:
    somebody = (4711, 4712)
    machine = machines("file-a", chain=2, start=False)
    give(machine, somebody, mode=0o600)
    stack.migrate(machine, "file-b").succeed()
    assert {of(stack.domains["file-b"].root / name) for name in stack.domains["file-b"].files()} == {somebody}
    start(machine)
    machine.verify()


@pytest.mark.parametrize(
    ("how", "is_running", "strategy"),
    [
        ("all_squash", True, "Snapshot"),
        pytest.param("root_squash", False, "Snapshot", marks=pytest.mark.nightly),
        pytest.param("root_squash", True, "Snapshot", marks=pytest.mark.nightly),
        pytest.param("root_squash", True, "Direct", marks=pytest.mark.nightly),
        pytest.param("all_squash", True, "Direct", marks=pytest.mark.nightly),
        pytest.param("all_squash", False, "Snapshot", marks=pytest.mark.nightly),
    ],
)
def test_a_disk_moves_to_an_export(
    stack: Stack, export: Export, machines: Machines, how: str, strategy: str, *, is_running: bool
) -> None:
    destination = export(SQUASHES[how])
    machine = machines("file-a", chain=2, start=is_running)

    migration = stack.migrate(machine, destination.name, strategy=strategy)
    migration.succeed()

    if is_running:
        machine.host.virsh("destroy", machine.name)
    start(machine)
    assert_moved(stack, machine, "file-a", destination.name, migration.uid, length=2)
    machine.verify()


@pytest.mark.parametrize(
    ("how", "is_running"),
    [
        ("root_squash", True),
        pytest.param("root_squash", False, marks=pytest.mark.nightly),
        pytest.param("all_squash", True, marks=pytest.mark.nightly),
        pytest.param("all_squash", False, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("destination", ["file-b", pytest.param("loop-b", marks=pytest.mark.nightly)])
def test_a_disk_moves_from_an_export(
    stack: Stack, export: Export, machines: Machines, how: str, destination: str, *, is_running: bool
) -> None:
    machine, source = machine_on(export, machines, SQUASHES[how])
    if is_running:
        start(machine)

    assert_moves_and_starts_again(stack, machine, source.name, destination, length=2)


@pytest.mark.parametrize(
    ("is_running", "strategy"),
    [
        (True, "Snapshot"),
        pytest.param(False, "Snapshot", marks=pytest.mark.nightly),
        pytest.param(True, "Direct", marks=pytest.mark.nightly),
    ],
)
def test_a_move_to_where_what_root_makes_is_nobodys_is_refused(
    stack: Stack, export: Export, machines: Machines, strategy: str, *, is_running: bool
) -> None:
    destination = export(ROOT_SQUASH, owner=ROOT)
    machine = machines("file-a", chain=2, start=is_running)
    before = AsItWas.of(machine, stack.domains["file-a"], destination) if is_running else None

    status = stack.migrate(machine, destination.name, strategy=strategy).wait_for_phase("Failed")

    failure = status["failure"]
    assert (failure["reason"], failure["phase"]) == ("VolumeNotAccessible", "Scheduled"), failure
    assert "all_squash" in failure["message"]
    assert status.get("attempts", 1) == 1
    assert destination.files() == []
    if before is not None:
        before.assert_so_again()
    else:
        start(machine)
        machine.verify()


def test_a_disk_leaves_where_what_root_makes_is_nobodys(stack: Stack, export: Export, machines: Machines) -> None:
    machine, _ = machine_on(export, machines, ROOT_SQUASH, owner=ROOT, chain=1)
    start(machine)
    refused = stack.migrate(machine, "file-b").wait_for_phase("Failed")["failure"]
    assert refused["reason"] == "VolumeNotAccessible", refused

    stack.migrate(machine, "file-b", strategy="Direct").succeed()

    machine.host.virsh("destroy", machine.name)
    start(machine)
    machine.verify()


def test_a_move_to_where_qemus_user_may_not_pass_is_refused(stack: Stack, machines: Machines, scratch: Path) -> None:
    machine = machines("file-a", start=False)
    closed = make_domain(scratch, f"closed-{uuid.uuid4().hex[:8]}", "file")
    closed.root.chmod(0o700)
    stack.make_ready({closed.name: closed})
    try:
        failure = stack.migrate(machine, closed.name).wait_for_phase("Failed")["failure"]
    finally:
        stack.control_plane.kubectl("delete", "storagedomain", closed.name)

    assert failure["reason"] == "VolumeNotAccessible", failure
    assert "chmod o+x" in failure["message"]
    assert closed.files() == []
    start(machine)
    machine.verify()
