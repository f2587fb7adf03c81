"""A quota that is used up is a full storage domain, although its file system has far more room."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import qemu_io
from tests.integration.migrations.as_it_was import AsItWas
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine, empty
from tests.integration.migrations.small import mount_for_all
from tests.integration.migrations.stack import Stack
from tests.variants import first_by_day

Machines = Callable[..., Machine]

LIMIT_BYTES = 32 * MEBIBYTE
HELD_BYTES = 60 * MEBIBYTE


@dataclass(frozen=True)
class Quota:
    """A storage domain in a btrfs subvolume that may take no more than `LIMIT_BYTES`."""

    domain: Domain

    def lift(self) -> None:
        """Lets it take as much as there is."""
        _run("btrfs", "qgroup", "limit", "none", self.domain.root)


@pytest.fixture
def quota(stack: Stack, scratch: Path, request: pytest.FixtureRequest) -> Iterator[Quota]:
    """A domain of the kind that is the parameter. Asked for before `machines`, whose VMs have to be gone at its end."""
    image, mount = scratch / "btrfs.img", scratch / "btrfs"
    with image.open("wb") as opened:
        opened.truncate(512 * MEBIBYTE)
    _run("mkfs.btrfs", "-q", image)
    mount.mkdir()
    name = f"quota-{uuid.uuid4().hex[:8]}"
    with mount_for_all(stack.host, image, mount):
        mount.chmod(0o755)
        made = Quota(Domain(name, request.param, mount / "volumes"))
        _run("btrfs", "subvolume", "create", made.domain.root)
        _run("btrfs", "quota", "enable", mount)
        _run("btrfs", "qgroup", "limit", str(LIMIT_BYTES), made.domain.root)
        stack.make_ready({name: made.domain})
        yield made
        stack.control_plane.kubectl("delete", "storagedomain", name)
        empty(made.domain)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"


def check_full(stack: Stack, quota: Quota, machines: Machines, *, runs: bool, strategy: str) -> None:
    machine = machines("file-a", chain=2)
    machine.write(offset=20 * MEBIBYTE, length=HELD_BYTES, pattern=20)
    qemu_io.flush(machine.host, machine.name)
    before = AsItWas.of(machine, stack.domains["file-a"], quota.domain)
    if not runs:
        machine.host.virsh("destroy", machine.name)

    status = stack.migrate(machine, quota.domain.name, strategy=strategy).wait_for_phase("Failed")

    failure = status["failure"]
    assert (failure["reason"], status["attempts"]) == ("DestinationFull", 1), failure
    assert "quota" in failure["message"]
    if not runs:
        machine.host.virsh("start", machine.name, "--paused")
    before.assert_so_again()
    quota.lift()
    stack.migrate(machine, quota.domain.name, strategy=strategy).succeed()


@pytest.mark.parametrize(
    ("quota", "runs", "strategy"),
    first_by_day([("loop", False, "Snapshot"), ("file", True, "Direct")]),
    indirect=["quota"],
    ids=["loop-off", "file-running"],
)
def test_a_quota_that_is_used_up_is_a_full_destination(
    stack: Stack, quota: Quota, machines: Machines, runs: bool, strategy: str
) -> None:
    check_full(stack, quota, machines, runs=runs, strategy=strategy)


@pytest.mark.nightly
@pytest.mark.parametrize("quota", ["file", "loop"], indirect=True)
@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
@pytest.mark.parametrize("runs", [True, False], ids=["running", "off"])
def test_a_quota_is_a_full_destination_however_the_disk_is_moved(
    stack: Stack, quota: Quota, machines: Machines, runs: bool, strategy: str
) -> None:
    check_full(stack, quota, machines, runs=runs, strategy=strategy)
