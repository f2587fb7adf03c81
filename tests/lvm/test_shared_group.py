"""A volume group that several hosts share, under a real lvmlockd and sanlock: a volume is one host's at a time."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diskmigration.agent.storage.driver import Owner, VolumeInUseError
from diskmigration.agent.storage.lvm.lvm_driver import LvmDriver
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import WipeAfterDelete
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import Stack
from tests.lvm.groups import Group, run
from tests.lvm.lock_manager import LockManager, running_lock_manager
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]

NAME = "lvm-shared"
DEVICE = f"/dev/disk/by-id/virtio-{NAME}"
EXTENT = 4 * MEBIBYTE
OWNER = Owner(migration="8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11", virtual_machine="0f6c0f1a", node="node-a")
SETTINGS = Path("/etc/lvm/lvmlocal.conf")


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """The group's; what is on it goes when no lock manager has the group's locks open any more."""
    yield DEVICE
    subprocess.run(["dmsetup", "remove", "--retry", f"{NAME.replace('-', '--')}-lvmlock"], check=False)
    run("wipefs", "--all", "--force", DEVICE)


@pytest.fixture(scope="module")
def here(directory: Path, device: str) -> Iterator[LockManager]:
    """The lock managers of the node, which have the device open."""
    before = SETTINGS.read_text()
    # Read after lvm.conf, and over it.
    SETTINGS.write_text("global { use_lvmlockd = 1 }\nlocal { host_id = 1 }\n")
    with running_lock_manager(directory, 1, is_default=True) as manager:
        yield manager
    SETTINGS.write_text(before)


@pytest.fixture(scope="module")
def elsewhere(directory: Path, here: LockManager) -> Iterator[LockManager]:
    """Those of another host."""
    with running_lock_manager(directory, here.host_id + 1, is_default=False) as manager:
        yield manager


@pytest.fixture(scope="module")
def shared(device: str, here: LockManager, elsewhere: LockManager) -> Group:
    """The group, with locks on both hosts."""
    here.run("vgcreate", "--shared", "--yes", NAME, device)
    for host in (here, elsewhere):
        host.run("vgchange", "--lockstart", NAME)
    return Group(NAME, (device,))


@pytest.fixture(scope="module")
def storage_domain(stack: Stack, shared: Group) -> Iterator[Domain]:
    """A StorageDomain on the group, ready."""
    domain = Domain(shared.name, "lvm", Path("/dev") / shared.name)
    stack.domains[shared.name] = domain
    stack.make_ready({shared.name: domain})
    yield domain
    stack.control_plane.kubectl("delete", "storagedomain", shared.name)
    del stack.domains[shared.name]


@pytest.fixture
def driver(shared: Group) -> Iterator[LvmDriver]:
    yield LvmDriver("shared", shared.name)
    run("lvremove", "--yes", shared.name)


def uuid_of(group: Group, volume: str) -> str:
    row = group.row(volume, "lv_uuid")
    assert row is not None
    return row["lv_uuid"]


@pytest.mark.parametrize("how", [WipeAfterDelete.NONE, WipeAfterDelete.ZERO_OUT])
@pytest.mark.parametrize("mode", ["ex", "sh"])
def test_a_volume_that_another_host_has_locked_is_neither_removed_nor_wiped(
    driver: LvmDriver, shared: Group, elsewhere: LockManager, how: WipeAfterDelete, mode: str
) -> None:
    volume = f"dm-{OWNER.migration}-0"
    path = driver.create(volume, EXTENT, OWNER)
    path.write_bytes(b"theirs")
    marks = shared.tags(volume)
    run("lvchange", "--activate", "n", f"{NAME}/{volume}")
    with elsewhere.holding(NAME, volume, mode=mode):
        removing = LvmDriver("removing", shared.name, how)
        with pytest.raises(VolumeInUseError, match="Another node has the volume active"):
            removing.remove(volume)
        with pytest.raises(MigrationError, match="Another node has the volume active"):
            driver.activate(volume, alone=True)
        with pytest.raises(MigrationError, match="Another node has the volume active"):
            driver.extend(volume, 2 * EXTENT)
        assert shared.tags(volume) == marks
    driver.activate(volume, alone=True)
    assert path.read_bytes()[:6] == b"theirs"
    removing.remove(volume)
    assert shared.row(volume) is None


def test_a_volume_that_is_active_in_shared_mode_is_locked_alone(
    driver: LvmDriver, shared: Group, here: LockManager, elsewhere: LockManager
) -> None:
    volume = f"dm-{OWNER.migration}-0"
    driver.create(volume, EXTENT, OWNER)
    uuid = uuid_of(shared, volume)
    assert here.locked_volumes() == {uuid: "ex"}
    run("lvchange", "--activate", "n", f"{NAME}/{volume}")
    run("lvchange", "--activate", "sy", f"{NAME}/{volume}")
    assert here.locked_volumes() == {uuid: "sh"}
    driver.activate(volume, alone=True)
    assert here.locked_volumes() == {uuid: "ex"}
    refused = elsewhere.try_run("lvchange", "--activate", "sy", f"{NAME}/{volume}")
    assert "locked by other host" in refused.stderr


def test_a_group_whose_locks_were_not_started_is_not_ready(driver: LvmDriver, here: LockManager) -> None:
    run("vgchange", "--lockstop", NAME)
    try:
        with pytest.raises(MigrationError, match="--lockstart"):
            LvmDriver("again", NAME).create(f"dm-{OWNER.migration}-0", EXTENT, OWNER)
        with pytest.raises(MigrationError, match="--lockstart"):
            LvmDriver("again", NAME).check()
    finally:
        here.run("vgchange", "--lockstart", NAME)


def test_a_disk_that_another_host_has_locked_is_not_copied(
    stack: Stack, storage_domain: Domain, machines: Machines, elsewhere: LockManager
) -> None:
    machine = machines(storage_domain.name, start=False)
    volume = machine.volumes[0].name
    run("lvchange", "--activate", "n", f"{NAME}/{volume}")
    with elsewhere.holding(NAME, volume):
        migration = stack.migrate(machine, "lvm-a")
        wait_until(lambda: "Another node has the volume active" in str(migration.status()), "it says why", seconds=60)
        assert migration.status().get("progress", {}).get("copiedBytes", 0) == 0
    migration.succeed(seconds=120)
    machine.host.virsh("start", machine.name, "--paused")
    machine.verify()
