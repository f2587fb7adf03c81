"""A QEMU that stands still, or that another tool keeps busy, is waited for: nothing is copied twice, and it is told."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.integration.freezing import standing_still
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.monitor import held_before
from tests.integration.migrations.moves import assert_moved
from tests.integration.migrations.stack import Migration, Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]

NIGHTLY = pytest.mark.nightly
SLOW = "1Mi"
WAYS: dict[str, dict[str, Any]] = {
    "CopyingChain": {"bandwidth": SLOW},
    "Replicating": {"bandwidth": SLOW, "strategy": "Direct"},
    "Synchronized": {"cutover": {"policy": "Manual"}},
}
"""What holds a migration in each phase."""
LET_GO = {"bandwidth": None, "cutover": {"policy": "Automatic"}}


def told(migration: Migration) -> str:
    """Return what the status says that it waits for."""
    return " ".join(condition["message"] for condition in migration.status().get("conditions", []))


def held(stack: Stack, machine: Machine, phase: str, **spec: Any) -> Migration:
    """Return a migration that stays in the phase until it is let go."""
    migration = stack.migrate(machine, "file-b", **WAYS[phase], **spec)
    migration.wait_for_phase(phase)
    return migration


@pytest.mark.parametrize(
    "phase",
    [
        "Synchronized",
        pytest.param("CopyingChain", marks=NIGHTLY),
        pytest.param("Replicating", marks=NIGHTLY),
    ],
)
def test_a_qemu_that_stands_still_for_a_while_costs_no_copy(stack: Stack, machines: Machines, phase: str) -> None:
    machine = machines("file-a", chain=1 if phase == "Replicating" else 2)
    migration = held(stack, machine, phase)
    before = migration.status()["progress"]["copiedBytes"]

    with standing_still(stack.host, machine.name):
        # What is copied without it goes on.
        migration.patch(LET_GO)
        wait_until(lambda: "libvirt did not answer" in told(migration), "it says so", seconds=120)
        assert "This has lasted since" in told(migration)
        assert migration.status()["attempts"] == 1
    status = migration.succeed()

    assert status["attempts"] == 1
    assert status["progress"]["copiedBytes"] >= before
    assert_moved(stack, machine, "file-a", "file-b", migration.uid, length=1 if phase == "Replicating" else 2)
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["cancel", "delete", "deadline"])
@pytest.mark.parametrize("phase", ["CopyingChain", "Replicating", "Synchronized"])
def test_one_that_is_ended_while_its_qemu_stands_still_ends_when_that_answers(
    stack: Stack, machines: Machines, phase: str, how: str
) -> None:
    machine = machines("file-a", chain=1 if phase == "Replicating" else 2)
    chain = machine.chain()
    migration = held(stack, machine, phase, **({"activeDeadlineSeconds": 40} if how == "deadline" else {}))
    with standing_still(stack.host, machine.name):
        wait_until(lambda: "libvirt did not answer" in told(migration), "it says so", seconds=120)
        if how == "cancel":
            migration.patch({"cancel": True})
        elif how == "delete":
            migration.delete()
        else:
            late = datetime.fromisoformat(migration.status()["startTime"]) + timedelta(seconds=40)
            wait_until(lambda: datetime.now(UTC) > late, "the deadline has passed", seconds=60)
    # The merge of what was written meanwhile keeps to the bandwidth.
    if how != "delete":
        migration.patch({"bandwidth": None})
    if how == "delete":
        wait_until(migration.is_gone, "it is gone", seconds=60)
    else:
        status = migration.wait_for_phase("Cancelled" if how == "cancel" else "Failed")
        assert status["failure"]["reason"] == ("Cancelled" if how == "cancel" else "DeadlineExceeded")
        assert status["attempts"] == 1
    assert machine.chain() == chain
    assert stack.domains["file-b"].files() == []
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize("phase", ["CopyingChain", "Replicating", "Synchronized"])
def test_a_vm_that_another_tool_keeps_busy_is_waited_for(stack: Stack, machines: Machines, phase: str) -> None:
    machine = machines("file-a", chain=1 if phase == "Replicating" else 2)
    migration = held(stack, machine, phase)
    command = ["virsh", "--quiet", "--keepalive-interval=0", "-c", stack.host.uri, "domblkinfo", machine.name, "vda"]
    with standing_still(stack.host, machine.name):
        # It holds the VM's lock in libvirt for as long as QEMU does not answer.
        tool = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        migration.patch(LET_GO)
        began_at = datetime.now(UTC)
        # libvirt waits 30 s for the lock. Whoever has it, and whoever has not, no attempt is used up.
        wait_until(lambda: datetime.now(UTC) > began_at + timedelta(seconds=40), "libvirt has given up", seconds=60)
        assert "libvirt" in told(migration)
    tool.wait(60)
    assert migration.succeed()["attempts"] == 1
    machine.verify()


@pytest.mark.nightly
def test_the_time_in_which_nobody_could_look_is_no_lack_of_progress(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = held(stack, machine, "Synchronized", progressTimeoutSeconds=5)
    with standing_still(stack.host, machine.name):
        began_at = datetime.now(UTC)
        wait_until(lambda: datetime.now(UTC) > began_at + timedelta(seconds=15), "the time-out is over")
        assert "libvirt did not answer" in told(migration)
    machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)
    migration.patch(LET_GO)
    assert migration.succeed()["attempts"] == 1
    machine.verify()


@pytest.mark.nightly
def test_a_merge_goes_on_where_it_was(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = held(stack, machine, "Synchronized", bandwidth=SLOW)
    machine.write(offset=40 * MEBIBYTE, length=16 * MEBIBYTE, pattern=40)
    migration.patch({"cutover": {"policy": "Automatic"}})
    wait_until(lambda: "Merging" in told(migration), "it merges")
    with standing_still(stack.host, machine.name):
        wait_until(lambda: "libvirt did not answer" in told(migration), "it says so", seconds=120)
    migration.patch({"bandwidth": None})
    assert migration.succeed()["attempts"] == 1
    machine.verify()


@pytest.mark.parametrize(
    "how", ["cancel", *[pytest.param(how, marks=NIGHTLY) for how in ("goes-on", "delete", "deadline")]]
)
def test_one_that_has_not_begun_says_so_and_can_be_ended(stack: Stack, machines: Machines, how: str) -> None:
    machine = machines("file-a")
    limit = {"activeDeadlineSeconds": 10} if how == "deadline" else {}
    with standing_still(stack.host, machine.name):
        migration = stack.migrate(machine, "file-b", **limit)
        if how == "deadline":
            assert migration.wait_for_phase("Failed")["failure"]["reason"] == "DeadlineExceeded"
        else:
            wait_until(lambda: "libvirt did not answer" in told(migration), "it says so", seconds=120)
        if how == "cancel":
            migration.patch({"cancel": True})
            assert migration.wait_for_phase("Cancelled")["failure"]["reason"] == "Cancelled"
        elif how == "delete":
            migration.delete()
            wait_until(migration.is_gone, "it is gone")
    if how == "goes-on":
        assert migration.succeed()["attempts"] == 1
    else:
        assert not machine.has_journal()
        assert stack.domains["file-b"].files() == []
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("command", "phase"), [("transaction", "Snapshotting"), ("job-complete", "Pivoting"), ("block-commit", "Merging")]
)
def test_an_act_that_qemu_does_not_answer_is_told(stack: Stack, machines: Machines, command: str, phase: str) -> None:
    machine = machines("file-a", chain=2)
    with held_before(stack.host, machine.name, command) as gate:
        migration = stack.migrate(machine, "file-b")
        wait_until(gate.is_reached.is_set, "QEMU is asked", seconds=120)
        wait_until(lambda: "libvirt did not answer" in told(migration), "it says so", seconds=120)
        assert migration.phase() == phase
        gate.open()
        assert migration.succeed()["attempts"] == 1
    assert_moved(stack, machine, "file-a", "file-b", migration.uid, length=2)
    machine.verify()
