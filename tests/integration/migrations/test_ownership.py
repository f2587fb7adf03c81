"""What a migration makes can be opened by the QEMU that will open it: whoever owns it, and whoever may give it away.

libvirt as distributions run it, libvirt that leaves the owners of volumes alone (dynamic_ownership=0), and file systems
on which root may give nothing away, as NFS exports are: see testbed.exports for what those show, and what they do not.
"""

import os
import pwd
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from testbed import exports
from testbed.libvirt_host import STOCK
from tests.integration.conftest import HOST, QEMU_SETTINGS
from tests.integration.migrations.as_it_was import AsItWas
from tests.integration.migrations.machines import Domain, Machine, empty
from tests.integration.migrations.moves import assert_moved, move
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]
Export = Callable[..., Domain]

pytestmark = pytest.mark.skipif(HOST == "root", reason="QEMU that runs as root may open everything")

_USER = pwd.getpwnam("libvirt-qemu")
QEMU = (_USER.pw_uid, _USER.pw_gid)
ROOT = (0, 0)
SQUASHED = {"all-squash": exports.ALL_SQUASH, "root-squash": exports.NOTHING_GIVEN_AWAY}


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
    stack.host.set_qemu(QEMU_SETTINGS[HOST])


@contextmanager
def exported(stack: Stack, directory: Path, options: tuple[str, ...], *, owner: tuple[int, int]) -> Iterator[Domain]:
    name = f"export-{uuid.uuid4().hex[:8]}"
    source, at = directory / f"{name}-source", directory / name
    for folder in (source, at):
        folder.mkdir()
    os.chown(source, *owner)
    # Where the owner is root, anybody may write, as on an export for everybody.
    source.chmod(0o711 if owner == QEMU else 0o777)
    domain = Domain(name, "file", at)
    with exports.mounted(source, at, options):
        try:
            stack.make_ready({name: domain})
            yield domain
        finally:
            stack.control_plane.kubectl("delete", "storagedomain", name)
            empty(domain)
    source.rmdir()
    at.rmdir()


@pytest.fixture
def export(stack: Stack, exports_directory: Path) -> Iterator[Export]:
    """Makes an exported storage domain. Asked for before `machines`, whose VMs have to be gone at its end."""
    with ExitStack() as ending:

        def make(options: tuple[str, ...], *, owner: tuple[int, int] = QEMU) -> Domain:
            domain = ending.enter_context(exported(stack, exports_directory, options, owner=owner))
            # So that assert_moved finds it.
            stack.domains[domain.name] = domain
            ending.callback(stack.domains.pop, domain.name)
            return domain

        yield make


@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
@pytest.mark.parametrize("destination", ["file-b", "loop-b"])
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


@pytest.mark.parametrize("destination", ["file-b", "loop-b"])
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

    migration = stack.migrate(machine, destination)
    migration.succeed()

    if is_running:
        machine.host.virsh("destroy", machine.name)
    start(machine)
    assert_moved(stack, machine, "loop-a", destination, migration.uid, length=1)
    machine.verify()


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


def on_export(machine: Machine) -> None:
    """Has the volumes on an export belong to QEMU's user, as its server's administrator does."""
    for volume in machine.volumes:
        os.chown(volume.parent.with_name(f"{volume.parent.name}-source") / volume.name, *QEMU)
    wait_until(lambda: {of(volume) for volume in machine.volumes} == {QEMU}, "the client sees it")


@pytest.mark.parametrize(
    ("how", "is_running", "strategy"),
    [
        ("all-squash", True, "Snapshot"),
        ("root-squash", False, "Snapshot"),
        pytest.param("root-squash", True, "Snapshot", marks=pytest.mark.nightly),
        pytest.param("root-squash", True, "Direct", marks=pytest.mark.nightly),
        pytest.param("all-squash", True, "Direct", marks=pytest.mark.nightly),
        pytest.param("all-squash", False, "Snapshot", marks=pytest.mark.nightly),
    ],
)
def test_a_disk_moves_to_an_export(
    stack: Stack, export: Export, machines: Machines, how: str, strategy: str, *, is_running: bool
) -> None:
    destination = export(SQUASHED[how])
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
        ("root-squash", True),
        pytest.param("root-squash", False, marks=pytest.mark.nightly),
        pytest.param("all-squash", True, marks=pytest.mark.nightly),
        pytest.param("all-squash", False, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("destination", ["file-b", pytest.param("loop-b", marks=pytest.mark.nightly)])
def test_a_disk_moves_from_an_export(
    stack: Stack, export: Export, machines: Machines, how: str, destination: str, *, is_running: bool
) -> None:
    source = export(SQUASHED[how])
    machine = machines(source, chain=2, start=False)
    on_export(machine)
    if is_running:
        start(machine)

    migration = stack.migrate(machine, destination)
    migration.succeed()

    if is_running:
        machine.host.virsh("destroy", machine.name)
    start(machine)
    assert_moved(stack, machine, source.name, destination, migration.uid, length=2)
    machine.verify()


@pytest.mark.parametrize(
    ("is_running", "strategy"),
    [
        (False, "Snapshot"),
        (True, "Snapshot"),
        pytest.param(True, "Direct", marks=pytest.mark.nightly),
    ],
)
def test_a_move_to_where_what_root_makes_is_nobodys_is_refused(
    stack: Stack, export: Export, machines: Machines, strategy: str, *, is_running: bool
) -> None:
    destination = export(exports.ROOT_IS_NOBODY, owner=ROOT)
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
    source = export(exports.ROOT_IS_NOBODY, owner=ROOT)
    machine = machines(source, start=False)
    on_export(machine)
    start(machine)
    refused = stack.migrate(machine, "file-b").wait_for_phase("Failed")["failure"]
    assert refused["reason"] == "VolumeNotAccessible", refused

    stack.migrate(machine, "file-b", strategy="Direct").succeed()

    machine.host.virsh("destroy", machine.name)
    start(machine)
    machine.verify()


def test_a_move_to_where_qemus_user_may_not_pass_is_refused(stack: Stack, export: Export, machines: Machines) -> None:
    destination = export(())
    machine = machines("file-a", start=False)
    (destination.root.parent / f"{destination.name}-source").chmod(0o700)
    os.chown(destination.root, *ROOT)
    wait_until(lambda: destination.root.stat().st_mode & 0o777 == 0o700, "it is so")

    failure = stack.migrate(machine, destination.name).wait_for_phase("Failed")["failure"]

    assert failure["reason"] == "VolumeNotAccessible", failure
    assert "chmod o+x" in failure["message"]
    assert destination.files() == []
    start(machine)
    machine.verify()
