"""Whose the files and devices are that are made, and as whom: on a local disk, and where root may not give any away."""

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage import access, command, image_locks, ownership, qcow2_header, qemu_image, qemu_img
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.ownership import Ownership
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageType
from testbed import exports
from testbed.exports import ALL_SQUASH, ROOT_SQUASH, Squash
from tests.integration.storage.conftest import OWNER
from tests.waiting import wait_until

MIB = 2**20
_USER = pwd.getpwnam("libvirt-qemu")
QEMU = Credentials(_USER.pw_uid, _USER.pw_gid)
ROOT = Credentials(0, 0)
QEMUS = Ownership(QEMU, 0o640)

Export = Callable[..., FileDriver]


def of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o777


@pytest.fixture
def export(scratch: Path) -> Iterator[Export]:
    """A storage domain on a directory with this owner and mode, as a client of its server sees it."""
    with ExitStack() as mounts:

        def make(squash: Squash, *, owner: Credentials = ROOT, mode: int = 0o755) -> FileDriver:
            source, at = scratch / "exported", scratch / "mounted"
            source.mkdir()
            at.mkdir()
            source.chmod(mode)
            os.chown(source, owner.uid, owner.gid)
            mounts.enter_context(exports.mounted(source, at, squash))
            return FileDriver("nfs", at)

        yield make


def test_on_a_local_disk_a_file_gets_the_ownership_that_it_is_to_have(file_driver: FileDriver) -> None:
    path = file_driver.create("v", 0, OWNER, QEMUS)
    assert of(path) == (QEMU.uid, QEMU.gid, 0o640)
    assert file_driver.libvirt_gives_away()
    assert access.may_open(path, QEMU)
    assert of(file_driver.create("own", 0, OWNER)) == (0, 0, 0o600)
    assert sorted(file_driver.volumes()) == ["own", "v"], "nothing is left of the probe"


def test_what_an_interrupted_attempt_made_gets_its_ownership_too(file_driver: FileDriver, root: Path) -> None:
    (root / "v").touch()
    assert of(file_driver.create("v", 0, OWNER, QEMUS)) == (QEMU.uid, QEMU.gid, 0o640)


def test_an_acl_goes_with_the_volume(file_driver: FileDriver) -> None:
    """It is `u::rw,u:libvirt-qemu:rw,g::-,m::rw,o::-`, as linux/posix_acl_xattr.h has it."""
    entries = [(0x01, 6, -1), (0x02, 6, QEMU.uid), (0x04, 0, -1), (0x10, 6, -1), (0x20, 0, -1)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + (number & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, bits, number in entries
    )
    old = file_driver.create("old", 0, OWNER)
    os.setxattr(old, "system.posix_acl_access", acl)
    new = file_driver.create("new", 0, OWNER, ownership.read(old))
    assert os.getxattr(new, "system.posix_acl_access") == acl
    assert access.may_open(new, QEMU)


def test_a_volume_that_libvirt_has_given_away_belongs_to_whom_it_did_before(file_driver: FileDriver) -> None:
    path = file_driver.create("v", 0, OWNER, QEMUS)
    os.setxattr(path, "trusted.libvirt.security.dac", b"+0:+0")
    found = ownership.read(path)
    assert (found.credentials, found.mode, found.is_changed_by_libvirt) == (ROOT, 0o640, True)
    file_driver.create("v", 0, OWNER, ownership.OWN)
    assert of(path) == (QEMU.uid, QEMU.gid, 0o640), "what a VM may be running on is left to libvirt"


def test_a_loop_device_belongs_to_whom_its_file_belongs(loop_driver: LoopDriver, root: Path) -> None:
    path = loop_driver.create("v", MIB, OWNER, QEMUS)
    device = path.resolve()
    assert of(root / "v") == of(device) == (QEMU.uid, QEMU.gid, 0o640)
    os.chown(device, ROOT.uid, ROOT.gid)
    subprocess.run(["losetup", "--detach", str(device)], check=True)
    loop_driver.activate("v")
    device = path.resolve()
    assert of(device) == (QEMU.uid, QEMU.gid, 0o640)
    loop_driver.remove("v")
    assert of(device)[:1] == (0,), "the next volume behind it is somebody else's"


def test_a_device_that_an_administrator_attached_and_gave_away_stays_so(loop_driver: LoopDriver, root: Path) -> None:
    (root / "v").write_bytes(bytes(MIB))
    attach = ["losetup", "--find", "--show", str(root / "v")]
    device = Path(subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip())
    os.chown(device, QEMU.uid, QEMU.gid)
    loop_driver.activate("v")
    assert of(device)[:2] == (QEMU.uid, QEMU.gid)


def test_a_loop_device_of_roots_stays_as_the_kernel_made_it(loop_driver: LoopDriver) -> None:
    device = loop_driver.create("v", MIB, OWNER).resolve()
    assert device.stat().st_uid == 0
    assert ownership.read(device) == ownership.OWN
    assert not access.may_open(device, QEMU)


@pytest.mark.parametrize("owner", [QEMU, ROOT], ids=["of-qemu", "of-root"])
def test_where_everybody_is_qemu_it_can_open_what_is_made(export: Export, owner: Credentials) -> None:
    driver = export(ALL_SQUASH, owner=owner, mode=0o777)
    driver.check()
    path = driver.create("v", 0, OWNER, Ownership(ROOT, 0o600))
    assert not driver.libvirt_gives_away()
    assert access.may_open(path, QEMU)
    driver.remove("v")
    assert driver.volumes() == ()


def test_where_root_is_nobody_the_directorys_owner_makes_lists_and_removes_the_files(export: Export) -> None:
    driver = export(ROOT_SQUASH, owner=QEMU, mode=0o711)
    driver.check()
    path = driver.create("v", 0, OWNER, Ownership(ROOT, 0o600))
    assert of(path) == (QEMU.uid, QEMU.gid, 0o600)
    assert access.may_open(path, QEMU)
    assert driver.volumes() == ("v",)
    driver.remove("v")
    assert driver.volumes() == ()
    (driver.root.parent / "roots").touch()
    assert (driver.root.parent / "roots").stat().st_uid == 0, "the thread is root again"


def test_where_what_root_makes_is_nobodys_qemu_cannot_open_it(export: Export) -> None:
    driver = export(ROOT_SQUASH, mode=0o777)
    path = driver.create("v", 0, OWNER, QEMUS)
    assert not driver.libvirt_gives_away()
    assert not access.may_open(path, QEMU)


def test_a_directory_that_root_may_not_pass_is_told_of(export: Export) -> None:
    driver = export(ROOT_SQUASH, owner=QEMU, mode=0o770)
    with pytest.raises(MigrationError, match="chmod o\\+x"):
        driver.check()


def test_a_directory_is_looked_at_again_when_it_was_given_to_somebody_else(export: Export) -> None:
    driver = export(ROOT_SQUASH)
    with pytest.raises(MigrationError, match="takes root for nobody"):
        driver.check()
    os.chown(driver.root.parent / "exported", QEMU.uid, QEMU.gid)
    wait_until(lambda: driver.root.stat().st_uid == QEMU.uid, "the file system tells its new owner")
    assert of(driver.create("w", 0, OWNER))[0] == QEMU.uid


def test_a_read_only_directory_is_told_of(scratch: Path, root: Path) -> None:
    subprocess.run(["mount", "--bind", str(root), str(root)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], check=True)
        with pytest.raises(MigrationError, match="Read-only"):
            FileDriver("nfs", root).check()
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_a_program_opens_what_is_somebodys_and_what_is_roots(scratch: Path, root: Path) -> None:
    """As a copy from a local disk to an export does: the capabilities are asked for on the local disk alone."""
    mine, roots = root / "mine", root / "roots"
    for path, owner in ((mine, QEMU), (roots, ROOT)):
        path.write_bytes(b"read")
        path.chmod(0o600)
        os.chown(path, owner.uid, owner.gid)
    printed = command.run(["cat", str(mine), str(roots)], doing="reading", credentials=QEMU)
    assert printed == "readread"
    printed = command.run(["grep", "^[UG]id:\\|^Groups:", "/proc/self/status"], doing="reading", credentials=QEMU)
    assert [line.split()[1:] for line in printed.splitlines()] == [[str(QEMU.uid)] * 4, [str(QEMU.gid)] * 4, []]


def test_a_program_that_runs_as_somebody_ends_with_its_agent(scratch: Path) -> None:
    """The kernel forgets the signal where the credentials change after it was asked for."""
    told = scratch / "pid"
    code = (
        "from diskmigration.agent.credentials import Credentials\n"
        "from diskmigration.agent.storage import command\n"
        f"command.run(['sh', '-c', 'echo $$ >{told}; sleep 600 & wait'], doing='waiting', "
        f"credentials=Credentials({QEMU.uid}, {QEMU.gid}))"
    )
    scratch.chmod(0o777)
    agent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "operator"})
    try:
        wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "the program runs")
        status = Path("/proc", told.read_text().strip(), "status")
        assert f"Uid:\t{QEMU.uid}" in status.read_text()
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    wait_until(lambda: not status.exists() or "\nState:\tZ" in status.read_text(), "the program is gone")


def test_a_volume_that_root_may_not_open_is_opened_as_its_owner(export: Export) -> None:
    driver = export(ROOT_SQUASH, owner=QEMU, mode=0o711)
    path = driver.create("v", 0, OWNER)
    with pytest.raises(PermissionError):
        path.open("rb")
    image = Image(path, VolumeFormat.QCOW2, StorageType.FILE)
    assert access.credentials_for([path], []) == QEMU
    qemu_img.create(image, MIB, backing=None)
    assert (qcow2_header.read(path).capacity_bytes, qemu_image.supports_direct_io(path)) == (MIB, True)
    path.parent.with_name("exported").joinpath("v").chmod(0o644)
    wait_until(lambda: os.access(path, os.R_OK, effective_ids=True), "root may read it now")
    assert access.credentials_for([path], []) is None
    assert access.credentials_for([], [path]) == QEMU, "but not write to it"
    assert not image_locks.is_written_to(path)
    with image_locks.writers_kept_out(path):
        pass
    assert driver.allocated_bytes("v") > 0


def copy(source: Image, onto: Image) -> None:
    done = qemu_img.copy(
        [source],
        [onto],
        target_is_zero=True,
        bandwidth_bytes_per_second=None,
        on_progress=lambda _: None,
        keep_on=lambda: True,
    )
    assert done


@pytest.mark.parametrize("is_to_export", [True, False], ids=["to", "from"])
def test_a_copy_opens_what_only_root_may_and_what_root_may_not(
    export: Export, file_driver: FileDriver, *, is_to_export: bool
) -> None:
    exported = export(ROOT_SQUASH, owner=QEMU, mode=0o711)
    drivers = (file_driver, exported) if is_to_export else (exported, file_driver)
    source, destination = (
        Image(driver.create("v", 0, OWNER, ownership.OWN), VolumeFormat.QCOW2, StorageType.FILE) for driver in drivers
    )
    for image in (source, destination):
        qemu_img.create(image, 4 * MIB, backing=None)
    credentials = access.credentials_for([], [source.path, destination.path])
    command.run(["qemu-io", "-c", "write -P 7 1M 1M", str(source.path)], doing="writing", credentials=credentials)
    copy(source, destination)
    assert qemu_img.is_equal([source], [destination])
    assert qemu_img.measure([destination], target=VolumeFormat.RAW).required_bytes == 4 * MIB
