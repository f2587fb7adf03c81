"""The driver of volume groups on a real LVM: every act may be repeated, and nothing is touched that is not ours."""

import fcntl
import multiprocessing
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from diskmigration.agent.storage import command, qcow2_header, qemu_image, qemu_img
from diskmigration.agent.storage.driver import Leftover, NoRoomError, Owner
from diskmigration.agent.storage.lvm import group as groups
from diskmigration.agent.storage.lvm import lvm_commands, wiping
from diskmigration.agent.storage.lvm.lvm_driver import LvmDriver
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageType, WipeAfterDelete
from tests.lvm.groups import MIB, Group, loop_device, run, suspendable_device, volume_group
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

EXTENT = 4 * MIB
OWNER = Owner(migration="8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11", virtual_machine="0f6c0f1a", node="node-a")
OTHER = Owner(migration="11111111-7d0b-4a55-9c39-2f9e1d8b7a11", virtual_machine="0f6c0f1a", node="node-b")
VOLUME = f"dm-{OWNER.migration}-0"
MARKS = {
    "diskmigration.dev",
    "diskmigration.dev/incomplete",
    f"diskmigration.dev/migration={OWNER.migration}",
    "diskmigration.dev/vm=0f6c0f1a",
    "diskmigration.dev/node=node-a",
}


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dm-", dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def whole_group(scratch: Path) -> Iterator[Group]:
    with volume_group(scratch, "vg-test_0") as made:
        yield made


@pytest.fixture
def group(whole_group: Group) -> Iterator[Group]:
    """The module's group with nothing on it."""
    yield whole_group
    run("lvremove", "--yes", whole_group.name)


@pytest.fixture
def driver(group: Group) -> LvmDriver:
    return LvmDriver("san", group.name)


def wiping_driver(group: Group, how: WipeAfterDelete) -> LvmDriver:
    return LvmDriver("san", group.name, how)


def count_lines(group: Group, word: str) -> int:
    """How many lines on the group's devices hold the word."""
    found = subprocess.run(
        ["grep", "--count", "--text", "--no-filename", word, *group.devices],
        capture_output=True,
        text=True,
        check=False,
    )
    return sum(int(count) for count in found.stdout.split())


def is_parent_of(pid: int | None, program: str) -> bool:
    return subprocess.run(["pgrep", "--parent", str(pid), program], capture_output=True, check=False).returncode == 0


def test_a_group_that_is_there_is_ready_and_tells_its_room_and_its_identity(driver: LvmDriver, group: Group) -> None:
    driver.check()
    space = driver.space()
    assert space.capacity_bytes == space.available_bytes
    assert 240 * MIB <= space.capacity_bytes <= 256 * MIB
    identity = driver.volume_group()
    assert identity.uuid == run("vgs", "--noheadings", "-o", "vg_uuid", group.name).strip()
    assert identity.lock_type == "none"


def test_a_group_that_is_not_there_says_so() -> None:
    with pytest.raises(MigrationError, match=r'Volume group "vg_none" not found.*see `vgs`'):
        LvmDriver("san", "vg_none").check()


def test_a_volume_is_made_with_its_tags_found_and_removed(driver: LvmDriver, group: Group) -> None:
    path = driver.create(VOLUME, 5 * MIB, OWNER)
    assert path == Path("/dev") / group.name / VOLUME
    assert path.is_block_device()
    assert driver.path(VOLUME) == path
    assert driver.volumes() == (VOLUME,)
    assert driver.size_bytes(VOLUME) == driver.allocated_bytes(VOLUME) == driver.rounded(5 * MIB) == 2 * EXTENT
    assert group.tags(VOLUME) == MARKS
    driver.remove(VOLUME)
    driver.remove(VOLUME)
    assert not path.exists()
    assert driver.volumes() == ()
    assert driver.allocated_bytes(VOLUME) == 0
    with pytest.raises(MigrationError, match="There is no volume"):
        driver.size_bytes(VOLUME)


def test_a_volume_is_known_by_any_of_its_paths_and_no_other_is(driver: LvmDriver, group: Group, scratch: Path) -> None:
    path = driver.create(VOLUME, MIB, OWNER)
    link = scratch / "link"
    link.symlink_to(path)
    mapper = next(entry for entry in Path("/dev/mapper").iterdir() if entry.name.startswith("vg--test_0-"))
    for known in (path, path.resolve(), mapper, link):
        assert driver.volume_at(known) == VOLUME
    run("lvchange", "--activate", "n", f"{group.name}/{VOLUME}")
    assert not path.exists()
    for known in (path, mapper, link):
        assert driver.volume_at(known) == VOLUME, "an inactive one by the path's form"
    link.unlink()
    for other in (Path("/dev/null"), Path("/dev/loop0"), scratch, Path("/dev/other/x"), scratch / "gone"):
        assert driver.volume_at(other) is None
    assert LvmDriver("b", "other").volume_at(path) is None


def test_what_is_made_twice_is_the_same_volume_with_its_data(driver: LvmDriver, group: Group) -> None:
    path = driver.create(VOLUME, EXTENT, OWNER)
    path.write_bytes(b"kept")
    run("lvchange", "--activate", "n", f"{group.name}/{VOLUME}")
    assert driver.create(VOLUME, 3 * EXTENT, OWNER) == path
    assert path.read_bytes()[:4] == b"kept"
    assert driver.size_bytes(VOLUME) == 3 * EXTENT
    driver.create(VOLUME, EXTENT, OWNER)
    assert driver.size_bytes(VOLUME) == 3 * EXTENT, "a smaller wish shrinks nothing"


def test_a_new_volume_shows_no_signature_of_what_was_there(driver: LvmDriver, group: Group) -> None:
    run("mkfs.ext4", "-q", str(group.make("theirs", 64)))
    run("lvremove", "--yes", f"{group.name}/theirs")
    path = driver.create(VOLUME, 64 * MIB, OWNER)
    assert run("wipefs", "--no-act", "--noheadings", str(path)) == ""


@pytest.mark.parametrize("tags", [(), ("diskmigration.dev",), (f"diskmigration.dev/migration={OWNER.migration}",)])
def test_a_volume_of_our_name_that_we_did_not_make_is_not_formatted(
    driver: LvmDriver, group: Group, tags: tuple[str, ...]
) -> None:
    path = group.make(VOLUME, 4, *tags)
    path.write_bytes(b"theirs")
    with pytest.raises(MigrationError, match="It was not touched"):
        driver.create(VOLUME, 2 * EXTENT, OWNER)
    assert path.read_bytes()[:6] == b"theirs"
    assert driver.size_bytes(VOLUME) == EXTENT


def test_a_volume_of_another_migration_is_not_formatted(driver: LvmDriver) -> None:
    driver.create(VOLUME, EXTENT, OTHER)
    with pytest.raises(MigrationError, match="It was not touched"):
        driver.create(VOLUME, EXTENT, OWNER)


def test_what_was_not_handed_over_is_neither_extended_nor_removed(driver: LvmDriver, group: Group) -> None:
    path = group.make("theirs", 4)
    path.write_bytes(b"theirs")
    for act in (
        lambda: driver.extend("theirs", 2 * EXTENT),
        lambda: driver.remove("theirs"),
        lambda: driver.require_ours("theirs"),
        lambda: wiping_driver(group, WipeAfterDelete.ZERO_OUT).remove("theirs"),
    ):
        with pytest.raises(
            MigrationError, match=f"`lvchange --addtag diskmigration.dev {group.name}/theirs`"
        ) as refused:
            act()
        assert refused.value.reason is Reason.VOLUME_NOT_HANDED_OVER
    assert path.read_bytes()[:6] == b"theirs"
    run("lvchange", "--addtag", "diskmigration.dev", f"{group.name}/theirs")
    driver.require_ours("theirs")
    assert driver.extend("theirs", 2 * EXTENT) == 2 * EXTENT
    driver.remove("theirs")
    assert group.row("theirs") is None


@pytest.mark.parametrize("name", ["..", "../beside", "/etc/passwd", "", "-f", "--force", "a/b", "snapshot1", "x_tdata"])
def test_a_name_that_lvm_would_take_for_something_else_is_refused(driver: LvmDriver, name: str) -> None:
    for act in (
        lambda: driver.create(name, MIB, OWNER),
        lambda: driver.extend(name, MIB),
        lambda: driver.path(name),
        lambda: driver.size_bytes(name),
    ):
        with pytest.raises(MigrationError, match="Nothing was touched"):
            act()


def test_an_extension_is_seen_by_whoever_has_the_device_open(driver: LvmDriver, group: Group) -> None:
    path = driver.create(VOLUME, EXTENT, OWNER)
    with path.open("r+b") as opened:
        assert driver.extend(VOLUME, 4 * EXTENT + 1) == 5 * EXTENT
        assert opened.seek(0, os.SEEK_END) == 5 * EXTENT
    assert driver.extend(VOLUME, 5 * EXTENT) == 5 * EXTENT
    assert driver.extend(VOLUME, EXTENT) == 5 * EXTENT
    row = group.row(VOLUME)
    assert row is not None
    assert row["lv_size"] == str(5 * EXTENT)


def test_a_volume_that_is_not_active_is_activated_to_be_extended(driver: LvmDriver, group: Group) -> None:
    driver.create(VOLUME, EXTENT, OWNER)
    run("lvchange", "--activate", "n", f"{group.name}/{VOLUME}")
    assert driver.size_bytes(VOLUME) == EXTENT, "lvm2 knows it although the kernel does not"
    assert driver.extend(VOLUME, 2 * EXTENT) == 2 * EXTENT
    run("lvchange", "--activate", "n", f"{group.name}/{VOLUME}")
    driver.activate(VOLUME)
    driver.activate(VOLUME)
    assert driver.path(VOLUME).is_block_device()


def test_an_extension_that_was_cut_off_is_completed(driver: LvmDriver, group: Group) -> None:
    """The group's metadata has the new size, the kernel's table the old one, and the device may be suspended."""
    path = driver.create(VOLUME, EXTENT, OWNER)
    device = f"vg--test_0-{VOLUME.replace('-', '--')}"
    table = run("dmsetup", "table", device)
    run("lvextend", "--size", f"{3 * EXTENT}b", f"{group.name}/{VOLUME}")
    run("dmsetup", "suspend", device)
    run("dmsetup", "load", device, "--table", table)
    run("dmsetup", "resume", device)
    run("dmsetup", "suspend", device)
    assert driver.size_bytes(VOLUME) == EXTENT
    assert driver.extend(VOLUME, 3 * EXTENT) == 3 * EXTENT
    assert "State:             ACTIVE" in run("dmsetup", "info", device)
    path.write_bytes(b"goes on")


def test_a_full_group_says_so_and_harms_nothing(driver: LvmDriver, group: Group) -> None:
    path = driver.create(VOLUME, EXTENT, OWNER)
    path.write_bytes(b"kept")
    free = driver.space().available_bytes
    with pytest.raises(NoRoomError, match=r"Insufficient free space.*vgextend"):
        driver.extend(VOLUME, EXTENT + free + 1)
    with pytest.raises(NoRoomError, match=r"insufficient free space.*vgextend"):
        driver.create(f"dm-{OWNER.migration}-1", free + 1, OWNER)
    assert group.row(f"dm-{OWNER.migration}-1") is None
    assert driver.size_bytes(VOLUME) == EXTENT
    assert path.read_bytes()[:4] == b"kept"
    assert driver.extend(VOLUME, EXTENT + free) == EXTENT + free, "the very last extent can be had"
    assert LvmDriver("again", group.name).space().available_bytes == 0


def test_a_volume_that_is_open_is_not_removed(driver: LvmDriver, group: Group) -> None:
    path = driver.create(VOLUME, EXTENT, OWNER)
    with path.open("r+b"):
        for one in (driver, wiping_driver(group, WipeAfterDelete.ZERO_OUT)):
            with pytest.raises(MigrationError, match="is open, so it was not removed"):
                one.remove(VOLUME)
    assert group.tags(VOLUME) == MARKS
    driver.remove(VOLUME)
    assert group.row(VOLUME) is None


def test_a_volume_that_is_kept_is_no_leftover(driver: LvmDriver, group: Group) -> None:
    others = [f"dm-{OWNER.migration}-{suffix}" for suffix in ("1", "overlay")]
    for name in (VOLUME, *others):
        driver.create(name, EXTENT, OWNER)
    driver.create("of-another-node", EXTENT, OTHER)
    group.make("theirs", 4)
    group.make("handed-over", 4, "diskmigration.dev")
    assert {found.volume for found in driver.leftovers("node-a")} == {VOLUME, *others}
    assert driver.leftovers("node-b") == (Leftover("of-another-node", OTHER.migration, EXTENT),)
    driver.keep([VOLUME, *others, "gone"])
    driver.keep([VOLUME])
    assert driver.leftovers("node-a") == ()
    assert group.tags(VOLUME) == MARKS - {"diskmigration.dev/incomplete"}
    assert driver.create(VOLUME, EXTENT, OWNER), "the migration goes on with it all the same"


@pytest.mark.parametrize("how", [WipeAfterDelete.ZERO_OUT, WipeAfterDelete.DISCARD])
def test_a_removed_volume_leaves_no_data(driver: LvmDriver, group: Group, how: WipeAfterDelete) -> None:
    path = driver.create(VOLUME, 4 * EXTENT, OWNER)
    secret = b"secret00" * 512
    path.write_bytes(secret * (4 * EXTENT // len(secret)))
    wiping_driver(group, how).remove(VOLUME)
    assert group.row(VOLUME) is None
    run("sync")
    assert count_lines(group, "secret00") == 0


def test_without_a_wish_to_wipe_nothing_is_wiped(driver: LvmDriver, group: Group) -> None:
    """The counterpart of the test above: it shows that the search finds what is there."""
    path = driver.create(VOLUME, EXTENT, OWNER)
    path.write_bytes(b"secret11" * 512)
    run("sync")
    driver.remove(VOLUME)
    assert count_lines(group, "secret11") > 0


def test_a_wiping_that_was_interrupted_goes_on_where_it_was(
    driver: LvmDriver, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = driver.create(VOLUME, 4 * EXTENT, OWNER)
    path.write_bytes(b"x" * 4 * EXTENT)
    monkeypatch.setattr(wiping, "ZERO_STEP_BYTES", EXTENT)
    monkeypatch.setattr(wiping, "NOTE_BYTES", EXTENT)
    wiped: list[str] = []
    really = command.run

    def runs_twice(line: list[str], **said: object) -> str:
        if len(wiped) == 2:
            raise KeyboardInterrupt
        wiped.append(line[line.index("--offset") + 1])
        return really(line, **said)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "run", runs_twice)
    with pytest.raises(KeyboardInterrupt):
        wiping_driver(group, WipeAfterDelete.ZERO_OUT).remove(VOLUME)
    assert {"diskmigration.dev/removing", f"diskmigration.dev/wiped={2 * EXTENT}"} <= group.tags(VOLUME)
    assert driver.leftovers("node-a") == (Leftover(VOLUME, OWNER.migration, 4 * EXTENT),)
    data = path.read_bytes()
    assert data[: 2 * EXTENT] == bytes(2 * EXTENT)
    assert data[2 * EXTENT :] == b"x" * 2 * EXTENT
    with pytest.raises(MigrationError, match="It was not touched"):
        driver.create(VOLUME, EXTENT, OWNER)
    wiped.clear()
    wiping_driver(group, WipeAfterDelete.ZERO_OUT).remove(VOLUME)
    assert wiped == [str(2 * EXTENT), str(3 * EXTENT)]
    assert group.row(VOLUME) is None


def test_a_group_with_a_missing_device_says_which_and_its_other_volumes_live(scratch: Path) -> None:
    with volume_group(scratch, "vg_broken", mebibytes=64, devices=2) as broken:
        driver = LvmDriver("san", broken.name)
        driver.create(VOLUME, EXTENT, OWNER)
        on = run("lvs", "--noheadings", "-o", "devices", f"{broken.name}/{VOLUME}").split("(")[0].strip()
        other = next(device for device in broken.devices if device != on)
        run("dd", "if=/dev/zero", f"of={other}", "bs=1M", "count=2", "conv=fsync")
        with pytest.raises(MigrationError, match="misses 1 of its physical volumes"):
            LvmDriver("again", broken.name).check()
        with pytest.raises(MigrationError, match="bring its device back"):
            driver.create("another", EXTENT, OWNER)
        with pytest.raises(MigrationError, match="bring its device back"):
            driver.extend(VOLUME, 2 * EXTENT)
        assert driver.size_bytes(VOLUME) == EXTENT
        driver.path(VOLUME).read_bytes()


def test_a_group_that_another_command_holds_is_waited_for_and_then_told(
    driver: LvmDriver, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.create(VOLUME, EXTENT, OWNER)
    with Path(f"/run/lock/lvm/V_{group.name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(groups, "_TIMEOUT_SECONDS", 3.0)
        monkeypatch.setattr(groups, "_REPORT_TIMEOUT_SECONDS", 3.0)
        with pytest.raises(MigrationError, match=r"did not answer within 3 s.*lsof"):
            driver.extend(VOLUME, 2 * EXTENT)
        monkeypatch.undo()
        thread = threading.Thread(target=driver.extend, args=(VOLUME, 2 * EXTENT))
        thread.start()
        fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join(60)
    assert driver.size_bytes(VOLUME) == 2 * EXTENT


def test_a_group_that_is_held_holds_up_no_other(driver: LvmDriver, group: Group, scratch: Path) -> None:
    with volume_group(scratch, "vg_other", mebibytes=64) as other:
        LvmDriver("other", other.name).create(VOLUME, EXTENT, OWNER)
        with groups.named(group.name).turn():
            assert LvmDriver("other", other.name).extend(VOLUME, 2 * EXTENT) == 2 * EXTENT


def test_a_group_whose_device_hangs_holds_up_no_other(driver: LvmDriver, group: Group, scratch: Path) -> None:
    with suspendable_device(scratch, "hangs", mebibytes=64) as device:
        run("vgcreate", "--yes", "vg_hangs", str(device.path))
        hanging = LvmDriver("hanging", "vg_hangs")
        hanging.create(VOLUME, EXTENT, OWNER)
        driver.create(VOLUME, EXTENT, OWNER)
        # Another device is there, so that lvm2 by itself would look for physical volumes on all of them.
        with device.suspended(), loop_device(scratch / "new", mebibytes=8):
            began_at = time.monotonic()
            driver.check()
            assert driver.extend(VOLUME, 2 * EXTENT) == 2 * EXTENT
            driver.create("dm-other", EXTENT, OWNER)
            driver.keep([VOLUME, "dm-other"])
            run("lvchange", "--devices", ",".join(group.devices), "--activate", "n", f"{group.name}/dm-other")
            driver.activate("dm-other")
            driver.remove("dm-other")
            took_seconds = time.monotonic() - began_at
            with ThreadPoolExecutor(1) as thread:
                extended = thread.submit(hanging.extend, VOLUME, 2 * EXTENT)
                # As long as all of the others took together.
                assert not wait([extended], took_seconds).done
                device.resume()
                assert extended.result(60) == 2 * EXTENT
        run("vgremove", "--yes", "--force", "vg_hangs")


@pytest.mark.parametrize("act", ["tags", "extends", "creates", "removes"])
def test_a_group_that_has_got_another_device_is_changed_with_it(scratch: Path, act: str) -> None:
    """A command that is told the devices that the group had must not write the group's metadata without the new one."""
    with (
        volume_group(scratch, "vg_grows", mebibytes=32) as grown,
        loop_device(scratch / "new", mebibytes=32) as new,
    ):
        driver, known = LvmDriver("san", grown.name), groups.named(grown.name)
        driver.create(VOLUME, EXTENT, OWNER)
        before = known.describe().devices
        run("vgextend", "--yes", grown.name, new)
        # What LVM would mark as missing for good is a physical volume that has data on it.
        run("lvcreate", "--yes", "--size", f"{EXTENT}b", "--name", "theirs", grown.name, new)
        line = {
            "tags": lvm_commands.change_tags(grown.name, [VOLUME], add=["seen"]),
            "extends": lvm_commands.extend(grown.name, VOLUME, size_bytes=2 * EXTENT),
            "creates": lvm_commands.create(grown.name, "another", extents=1, tags=["seen"], exclusive=False),
            "removes": lvm_commands.remove(grown.name, VOLUME),
        }[act]
        assert before == known.describe(max_age_seconds=600).devices == grown.devices
        with known.turn():
            known.change(line, doing="changing it")
        is_done: dict[str, Callable[[], bool]] = {
            "tags": lambda: "seen" in grown.tags(VOLUME),
            "extends": lambda: driver.size_bytes(VOLUME) == 2 * EXTENT,
            "creates": lambda: "seen" in grown.tags("another"),
            "removes": lambda: grown.row(VOLUME) is None,
        }
        assert is_done[act]()
        assert known.describe().devices == (*grown.devices, new)
        assert known.describe().vg_missing_pv_count == 0
        run("vgremove", "--yes", "--force", grown.name)
        run("pvremove", "--yes", new)


def test_a_wiping_holds_up_no_extension(driver: LvmDriver, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.create(VOLUME, EXTENT, OWNER)
    driver.create("dm-live", EXTENT, OWNER)
    wiping_now, may_end = threading.Event(), threading.Event()

    def wipes_long(*_: object, **__: object) -> str:
        wiping_now.set()
        assert may_end.wait(60)
        return ""

    monkeypatch.setattr(command, "run", wipes_long)
    remover = threading.Thread(target=wiping_driver(group, WipeAfterDelete.ZERO_OUT).remove, args=(VOLUME,))
    remover.start()
    assert wiping_now.wait(60)
    assert driver.extend("dm-live", 2 * EXTENT) == 2 * EXTENT
    may_end.set()
    remover.join(60)
    assert group.row(VOLUME) is None


def test_a_command_outlives_the_agent_that_started_it(driver: LvmDriver, group: Group) -> None:
    """An lvextend that is killed while it holds a guest's device suspended would hang the guest."""
    driver.create(VOLUME, EXTENT, OWNER)
    # Forked, as another Python takes half a minute to start in an emulated machine.
    agent = multiprocessing.get_context("fork").Process(target=driver.extend, args=(VOLUME, 2 * EXTENT))
    with Path(f"/run/lock/lvm/V_{group.name}").open("w") as lock:
        # Shared: whoever reads the group may, and lvextend has to wait.
        fcntl.flock(lock, fcntl.LOCK_SH)
        agent.start()
        try:
            wait_until(lambda: is_parent_of(agent.pid, "lvextend"), "lvextend runs")
        finally:
            agent.kill()
            agent.join()
    wait_until(lambda: (group.row(VOLUME) or {}).get("lv_size") == str(2 * EXTENT), "lvextend came to its end")
    wait_until(lambda: driver.size_bytes(VOLUME) == 2 * EXTENT, "the kernel knows it")


def test_a_qcow2_on_a_volume_grows_with_it(driver: LvmDriver) -> None:
    image = Image(driver.create(VOLUME, EXTENT, OWNER), VolumeFormat.QCOW2, StorageType.BLOCK)
    qemu_img.create(image, 2**30, backing=None)
    assert qcow2_header.read(image.path).capacity_bytes == 2**30
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 16M", str(image.path)]
    assert "No space left" in subprocess.run(write, capture_output=True, text=True, check=False).stdout
    driver.extend(VOLUME, 6 * EXTENT)
    run(*write)
    assert "Pattern verification failed" not in run("qemu-io", "-f", "qcow2", "-c", "read -P 7 0 16M", str(image.path))


def test_a_raw_volume_takes_only_a_disk_of_whole_extents(driver: LvmDriver) -> None:
    image = Image(driver.path(VOLUME), VolumeFormat.RAW, StorageType.BLOCK)
    qemu_image.require_exact_size(image, driver.rounded(3 * EXTENT), 3 * EXTENT)
    with pytest.raises(MigrationError, match="a multiple of the destination's extent") as refused:
        qemu_image.require_exact_size(image, driver.rounded(3 * EXTENT + 512), 3 * EXTENT + 512)
    assert refused.value.reason is Reason.INVALID_SPEC
