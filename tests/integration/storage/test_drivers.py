"""Both kinds of domain for real: every act may be repeated, and no name leads out of the domain."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.loop_devices import backing_of
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain
from tests.integration.loop_devices import attached
from tests.integration.storage.conftest import OWNER
from tests.waiting import wait_until

MIB = 2**20
Driver = FileDriver | LoopDriver


def device_bytes(path: Path) -> int:
    printed = subprocess.run(["blockdev", "--getsize64", str(path)], capture_output=True, text=True, check=True).stdout
    return int(printed)


def test_a_domain_that_is_there_is_ready_and_has_room(driver: Driver, root: Path) -> None:
    driver.check()
    space = driver.space()
    found = os.statvfs(root)
    assert space.capacity_bytes == found.f_blocks * found.f_frsize
    assert 0 < space.available_bytes <= space.capacity_bytes


def test_a_domain_that_is_not_there_says_what_to_do(driver: Driver, root: Path) -> None:
    root.rmdir()
    with pytest.raises(MigrationError, match="Create or mount it"):
        driver.check()
    with pytest.raises(MigrationError, match=str(root)):
        driver.space()


def test_a_volume_is_made_found_and_removed(driver: Driver, root: Path) -> None:
    path = driver.create("dm-1-0", 8 * MIB, OWNER)
    assert path.exists()
    assert path.is_relative_to(root)
    assert driver.path("dm-1-0") == path
    assert driver.volumes() == ("dm-1-0",)
    assert driver.volume_at(path) == "dm-1-0"
    driver.remove("dm-1-0")
    assert not path.exists()
    assert driver.volumes() == ()
    assert driver.volume_at(path) is None
    assert driver.allocated_bytes("dm-1-0") == 0


def test_what_is_made_twice_is_the_same_volume_with_its_data(driver: Driver) -> None:
    path = driver.create("v", 8 * MIB, OWNER)
    with path.open("r+b") as file:
        file.write(b"kept")
    again = driver.create("v", 8 * MIB, OWNER)
    assert again == path
    with path.open("rb") as file:
        assert file.read(4) == b"kept"
    assert driver.create("v", 4 * MIB, OWNER) == path, "a smaller wish shrinks nothing"
    assert driver.size_bytes("v") >= (8 * MIB if isinstance(driver, LoopDriver) else 4)
    driver.remove("v")


def test_what_is_removed_twice_is_gone(driver: Driver) -> None:
    driver.create("v", MIB, OWNER)
    driver.remove("v")
    driver.remove("v")
    driver.remove("never-there")


def test_only_what_is_written_takes_room(driver: Driver) -> None:
    path = driver.create("v", 64 * MIB, OWNER)
    assert driver.allocated_bytes("v") == 0
    with path.open("r+b") as file:
        file.write(os.urandom(3 * MIB))
        file.flush()
        os.fsync(file.fileno())
    assert 3 * MIB <= driver.allocated_bytes("v") < 4 * MIB


def test_a_volume_is_found_through_links_and_not_beside_the_domain(driver: Driver, scratch: Path) -> None:
    path = driver.create("v", MIB, OWNER)
    link = scratch / "link"
    link.symlink_to(path)
    (scratch / "elsewhere").symlink_to(path.parent)
    assert driver.volume_at(link) == "v"
    assert driver.volume_at(scratch / "elsewhere" / path.name) == "v"
    beside = scratch / "beside"
    beside.write_bytes(b"")
    assert driver.volume_at(beside) is None
    assert driver.volume_at(scratch / "not-there") is None
    assert driver.volume_at(Path("/dev/null")) is None


def test_a_domain_may_be_reached_through_a_link(driver: Driver, scratch: Path, root: Path) -> None:
    path = driver.create("v", MIB, OWNER)
    (scratch / "mounted").symlink_to(root)
    linked = type(driver)("linked", scratch / "mounted")
    assert linked.volume_at(path) == "v"
    assert linked.volume_at(linked.path("v")) == "v"


@pytest.mark.parametrize("name", ["..", "../beside", "sub/../../beside", "/etc/passwd", "", ".", "sub/.."])
def test_a_name_that_leads_out_of_the_domain_is_refused(driver: Driver, root: Path, name: str) -> None:
    beside = root.parent / "beside"
    beside.write_bytes(b"theirs")
    (root / "sub").mkdir()
    for act in (
        lambda: driver.create(name, MIB, OWNER),
        lambda: driver.extend(name, MIB),
        lambda: driver.remove(name),
        lambda: driver.path(name),
        lambda: driver.size_bytes(name),
        lambda: driver.allocated_bytes(name),
    ):
        with pytest.raises(MigrationError, match="does not lie inside") as refused:
            act()
        assert refused.value.reason is Reason.STORAGE_FAILED
    assert beside.read_bytes() == b"theirs"


def test_a_planted_link_is_not_followed(driver: Driver, root: Path) -> None:
    target = root.parent / "theirs"
    target.write_bytes(b"theirs")
    (root / "dm-1-0").symlink_to(target)
    for act in (
        lambda: driver.create("dm-1-0", MIB, OWNER),
        lambda: driver.extend("dm-1-0", MIB),
    ):
        with pytest.raises(MigrationError, match="does not lie inside"):
            act()
    # What is no volume is as good as gone: a migration that met it has an end.
    driver.remove("dm-1-0")
    assert (root / "dm-1-0").is_symlink()
    assert target.read_bytes() == b"theirs"


def plant_fifo(place: Path, _theirs: Path) -> None:
    os.mkfifo(place)


def plant_device(place: Path, theirs: Path) -> None:
    printed = subprocess.run(["losetup", "--find", "--show", theirs], capture_output=True, text=True, check=True)
    os.mknod(place, stat.S_IFBLK | 0o600, Path(printed.stdout.strip()).stat().st_rdev)


def plant_folder(place: Path, _theirs: Path) -> None:
    place.mkdir()


@pytest.mark.parametrize("plant", [os.link, plant_fifo, plant_device, plant_folder])
def test_what_is_planted_in_a_volumes_place_is_not_written_to(
    driver: Driver, root: Path, plant: Callable[[Path, Path], None]
) -> None:
    theirs = root.parent / "theirs"
    theirs.write_bytes(b"theirs" * MIB)
    place = root / "dm-1-0"
    if plant is os.link:
        os.link(theirs, place)
    else:
        plant(place, theirs)
    with pytest.raises(MigrationError, match="dm-1-0") as refused:
        driver.create("dm-1-0", MIB, OWNER)
    assert refused.value.reason is Reason.STORAGE_FAILED
    driver.remove("dm-1-0")
    assert theirs.read_bytes() == b"theirs" * MIB
    # The second name of another file is a file in our place, and goes; the other file does not.
    assert place.exists() is (plant is not os.link)


def test_a_planted_folder_of_links_is_not_followed(loop_driver: LoopDriver, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "dev").symlink_to(outside)
    with pytest.raises(MigrationError, match="is a link"):
        loop_driver.create("dm-1-0", MIB, OWNER)
    assert list(outside.iterdir()) == []


def test_a_planted_link_to_another_device_is_replaced(loop_driver: LoopDriver, root: Path) -> None:
    (root / "dev").mkdir()
    (root / "dev" / "dm-1-0").symlink_to("/dev/null")
    assert loop_driver.volume_at(loop_driver.create("dm-1-0", MIB, OWNER)) == "dm-1-0"


@pytest.mark.parametrize("kind", ["too long", "a circle", "a circle of folders", "below a file"])
def test_a_path_that_leads_nowhere_is_no_volume(driver: Driver, root: Path, kind: str) -> None:
    circle, file = root / "circle", root / "file"
    circle.symlink_to(circle)
    file.touch()
    path = {
        "too long": root / ("x" * 300),
        "a circle": circle,
        "a circle of folders": circle / "volume",
        "below a file": file / "volume",
    }[kind]
    assert driver.volume_at(path) is None


def test_a_planted_folder_is_not_followed(driver: Driver, root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "sub").symlink_to(outside)
    with pytest.raises(MigrationError, match="does not lie inside"):
        driver.create("sub/dm-1-0", MIB, OWNER)
    assert list(outside.iterdir()) == []


def test_a_loop_volume_is_a_device_of_at_least_the_wanted_size(loop_driver: LoopDriver) -> None:
    path = loop_driver.create("v", 5 * MIB + 1, OWNER)
    assert path.is_block_device()
    assert device_bytes(path) == loop_driver.size_bytes("v")
    assert 5 * MIB + 1 <= loop_driver.size_bytes("v") < 5 * MIB + 8192


def test_an_extension_is_seen_by_whoever_has_the_device_open(loop_driver: LoopDriver) -> None:
    path = loop_driver.create("v", 4 * MIB, OWNER)
    with path.open("r+b") as opened:
        assert loop_driver.extend("v", 16 * MIB) == 16 * MIB
        assert opened.seek(0, os.SEEK_END) == 16 * MIB
        opened.seek(15 * MIB)
        opened.write(b"far")
    assert device_bytes(path) == 16 * MIB
    assert loop_driver.path("v") == path, "a volume keeps its path for as long as it lives"


def test_an_extension_done_twice_or_backwards_shrinks_nothing(loop_driver: LoopDriver) -> None:
    path = loop_driver.create("v", 16 * MIB, OWNER)
    assert loop_driver.extend("v", 16 * MIB) == 16 * MIB
    assert loop_driver.extend("v", 4 * MIB) == 16 * MIB
    assert device_bytes(path) == 16 * MIB


def test_an_extension_that_broke_off_in_the_middle_is_completed(loop_driver: LoopDriver, root: Path) -> None:
    loop_driver.create("v", 4 * MIB, OWNER)
    os.truncate(root / "v", 8 * MIB)
    assert loop_driver.size_bytes("v") == 4 * MIB, "the device was not told yet"
    assert loop_driver.extend("v", 8 * MIB) == 8 * MIB


def test_a_creation_that_broke_off_in_the_middle_is_completed(loop_driver: LoopDriver, root: Path) -> None:
    (root / "v").write_bytes(b"")
    assert loop_driver.create("v", 4 * MIB, OWNER).is_block_device()
    (root / "dev" / "v").unlink()
    assert loop_driver.create("v", 4 * MIB, OWNER).is_block_device()
    assert len(attached(root)) == 1


def test_the_device_is_released_with_its_volume(loop_driver: LoopDriver, root: Path) -> None:
    loop_driver.create("v", MIB, OWNER)
    loop_driver.create("w", MIB, OWNER)
    assert sorted(attached(root).values()) == [root / "v", root / "w"]
    loop_driver.remove("v")
    # A device goes when nobody looks at it any more, and other programs of the machine do now and then.
    wait_until(lambda: list(attached(root).values()) == [root / "w"], "the device of v is detached")
    assert sorted(path.name for path in root.rglob("*")) == ["dev", "w", "w"]


def test_a_removal_that_broke_off_in_the_middle_is_completed(loop_driver: LoopDriver, root: Path) -> None:
    loop_driver.create("v", MIB, OWNER)
    (root / "dev" / "v").unlink()
    loop_driver.remove("v")
    wait_until(lambda: attached(root) == {}, "the device is detached")
    assert loop_driver.volumes() == ()


def test_a_link_to_a_device_that_was_given_to_another_is_made_anew(loop_driver: LoopDriver, root: Path) -> None:
    path = loop_driver.create("v", MIB, OWNER)
    loop_driver.create("w", 2 * MIB, OWNER)
    path.unlink()
    path.symlink_to((root / "dev" / "w").readlink())
    assert loop_driver.size_bytes("v") == MIB, "the kernel is asked, not the link"
    loop_driver.create("v", MIB, OWNER)
    assert device_bytes(path) == MIB


def test_a_device_that_somebody_else_attached_is_the_volumes(loop_driver: LoopDriver, root: Path) -> None:
    (root / "v").touch()
    os.truncate(root / "v", 4 * MIB)
    printed = subprocess.run(
        ["losetup", "--find", "--show", str(root / "v")], capture_output=True, text=True, check=True
    ).stdout
    device = Path(printed.strip())
    assert loop_driver.volume_at(device) == "v"
    assert loop_driver.path("v") == device
    assert loop_driver.extend("v", 8 * MIB) == 8 * MIB


def test_a_volume_that_is_not_attached_says_so(loop_driver: LoopDriver, root: Path) -> None:
    (root / "v").touch()
    with pytest.raises(MigrationError, match="not attached to a loop device"):
        loop_driver.extend("v", MIB)


def test_a_volume_that_is_attached_again_has_its_path_and_its_data(loop_driver: LoopDriver, root: Path) -> None:
    path = loop_driver.create("v", MIB, OWNER)
    path.write_bytes(b"kept")
    subprocess.run(["losetup", "--detach", str(path.resolve())], check=True)
    loop_driver.activate("v")
    loop_driver.activate("v")
    assert loop_driver.volume_at(path) == "v"
    assert path.read_bytes()[:4] == b"kept"
    assert len(attached(root)) == 1


def test_a_size_is_told_as_it_would_be_had(loop_driver: LoopDriver, file_driver: FileDriver) -> None:
    loop_driver.create("v", 5 * MIB + 1, OWNER)
    assert loop_driver.rounded(5 * MIB + 1) == loop_driver.size_bytes("v")
    assert file_driver.rounded(5 * MIB + 1) == 5 * MIB + 1


def test_a_file_named_as_a_loop_device_is_no_volume(loop_driver: LoopDriver, scratch: Path) -> None:
    device = loop_driver.create("v", MIB, OWNER).resolve()
    named_alike = scratch / device.name
    named_alike.write_bytes(b"")
    assert loop_driver.volume_at(named_alike) is None


def test_a_file_grows_by_itself(file_driver: FileDriver) -> None:
    path = file_driver.create("v", 8 * MIB, OWNER)
    assert file_driver.size_bytes("v") == 0
    assert file_driver.extend("v", 8 * MIB) == 8 * MIB
    path.write_bytes(b"12345")
    assert file_driver.size_bytes("v") == 5


def test_a_file_that_is_gone_has_no_size(file_driver: FileDriver) -> None:
    with pytest.raises(MigrationError, match="gone"):
        file_driver.size_bytes("gone")


def test_a_path_is_located_in_the_innermost_of_the_domains(scratch: Path, root: Path) -> None:
    inner = root / "inner"
    inner.mkdir()
    domains = StorageDomains({})
    for name, kind, path in (("outer", "file", root), ("inner", "file", inner), ("blocks", "loop", root)):
        domains.put(StorageDomain.from_wire({"metadata": {"name": name}, "spec": {kind: {"path": str(path)}}}))
    (inner / "v").touch()
    located = domains.locate(inner / "v")
    assert located is not None
    assert (located[0].name, located[1]) == ("inner", "v")
    device = domains.get("blocks").driver.create("w", MIB, OWNER)
    located = domains.locate(device)
    assert located is not None
    assert (located[0].name, located[1]) == ("blocks", "w")
    assert domains.locate(scratch / "beside") is None


def test_a_volume_of_another_mount_namespace_is_found(scratch: Path) -> None:
    """As that of an agent's pod that has ended: the path that the kernel shows of its file leads nowhere."""
    (scratch / "loops").mkdir()
    elsewhere = scratch / "elsewhere"
    elsewhere.mkdir()
    driver = LoopDriver("loops", scratch / "loops")
    (scratch / "loops" / "volume").write_bytes(bytes(2**20))
    attach = 'mount --bind "$0" "$1" && losetup --find --show "$1/volume"'
    command = ["unshare", "--mount", "sh", "-c", attach, str(scratch / "loops"), str(elsewhere)]
    device = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    attached_to = backing_of(device)
    assert attached_to is not None

    def is_detached() -> bool:
        # The device's number may be another test's by now.
        found = backing_of(device)
        return found is None or (found.file_system, found.inode) != (attached_to.file_system, attached_to.inode)

    try:
        assert not attached_to.shown_as.exists()
        assert driver.volume_at(device) == "volume"
        assert driver.path("volume") == device
        assert driver.extend("volume", 3 * 2**20) == 3 * 2**20
    finally:
        driver.remove("volume")
    wait_until(is_detached, "the device is detached")
