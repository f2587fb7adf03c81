"""The agent, the operator or libvirtd ends in mid-migration: it goes on where it was, once, and loses nothing."""

import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.programs import Program
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Machine
from tests.integration.migrations.stack import FINAL, Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

PHASES = ["CopyingChain", "Replicating", "Synchronized"]
WAYS = [
    ("CopyingChain", "file-a", "loop-b"),
    ("Replicating", "loop-a", "file-b"),
    ("Synchronized", "file-a", "loop-b"),
]
"""What else is under way while something breaks than the moments of the faults' tests, which hold a migration still."""
SLOW_BYTES = 256 * 1024


def hold(stack: Stack, machine: Machine, to: str, phase: str) -> Migration:
    """A migration that stays in the phase until it is let go."""
    ways: dict[str, dict[str, Any]] = {
        "CopyingChain": {"bandwidth": SLOW_BYTES},
        "Replicating": {"bandwidth": SLOW_BYTES, "strategy": "Direct"},
        "Synchronized": {"cutover": {"policy": "Manual"}},
    }
    migration = stack.migrate(machine, to, **ways[phase])
    migration.wait_for_phase(phase)
    machine.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
    return migration


def fill(volume: Path) -> None:
    """Has a qcow2 volume on block storage take all the clusters that it has room for, from the disk's end on."""
    for offset in reversed(range(0, CAPACITY_BYTES, MEBIBYTE)):
        write = ["qemu-io", "--format", "qcow2", "-c", f"write {offset} {MEBIBYTE}", str(volume)]
        done = subprocess.run(write, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            assert "No space left on device" in done.stdout + done.stderr
            return
    pytest.fail(f"{volume} did not run full")


def let_go(migration: Migration) -> dict[str, Any]:
    """Takes away what holds it; returns its last status."""
    migration.patch({"bandwidth": None, "cutover": {"policy": "Automatic"}})
    return migration.succeed()


def copies(stack: Stack) -> list[str]:
    """The command lines of the copies that run onto volumes of these storage domains."""
    roots = [str(domain.root) for domain in stack.domains.values()]
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command.startswith("qemu-img convert") and any(root in command for root in roots):
            found.append(command)
    return found


def assert_moved(stack: Stack, machine: Machine, source: str, to: str, migration: Migration) -> None:
    """The disk is at its destination, once and whole, and nothing else is anywhere."""
    uid = migration.uid
    length = len(machine.volumes)
    expected = [stack.domains[to].path(made_volume(uid, position)) for position in reversed(range(length))]
    assert machine.chain() == [(str(path), "qcow2") for path in expected]
    assert machine.chain(inactive=True)[0] == machine.chain()[0]
    assert stack.domains[to].files() == [made_volume(uid, position) for position in range(length)]
    assert stack.domains[source].files() == []
    assert copies(stack) == []
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    machine.verify()


@pytest.mark.parametrize(("phase", "source", "destination"), first_by_day(WAYS))
def test_an_agent_that_is_killed_finds_its_migration_again(
    stack: Stack, machines: Machines, source: str, destination: str, phase: str
) -> None:
    machine = machines(source, chain=1 if phase == "Replicating" else 2)
    migration = hold(stack, machine, destination, phase)
    before = wait_until(lambda: migration.status().get("progress"), "it shows progress")

    stack.agent.kill()
    try:
        wait_until(lambda: not copies(stack), "no copy outlives its agent")
        machine.write(offset=70 * MEBIBYTE, length=2 * MEBIBYTE, pattern=70)
    finally:
        stack.agent.start()
    if phase == "CopyingChain":
        wait_until(lambda: copies(stack), "the copy was started again")
        assert len(copies(stack)) == 1
    status = let_go(migration)

    assert status["attempts"] == 1
    assert status["progress"]["copiedBytes"] >= before["copiedBytes"]
    assert_moved(stack, machine, source, destination, migration)


@pytest.mark.nightly
def test_what_an_interrupted_copy_has_taken_leaves_room_for_the_next(stack: Stack, machines: Machines) -> None:
    """A qemu-img that is killed as it ends has taken all its clusters, and entered none of them yet."""
    machine = machines("file-a", chain=2)
    migration = hold(stack, machine, "loop-b", "CopyingChain")
    wait_until(lambda: copies(stack), "a copy runs")
    stack.agent.kill()
    try:
        wait_until(lambda: not copies(stack), "no copy outlives its agent")
        base = stack.domains["loop-b"].path(made_volume(migration.uid, 0))
        fill(base)
    finally:
        stack.agent.start()
    status = let_go(migration)
    assert status["attempts"] == 1
    assert_moved(stack, machine, "file-a", "loop-b", migration)


@pytest.mark.nightly
def test_progress_does_not_go_back_with_a_new_agent(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=3)
    migration = hold(stack, machine, "loop-b", "CopyingChain")
    before = wait_until(
        lambda: next((p for p in [migration.status()["progress"]] if p["percent"] > 10), None), "it shows progress"
    )
    stack.agent.kill()
    stack.agent.start()
    wait_until(lambda: copies(stack), "the copy was started again")
    # A condition that the new agent writes, so that what is read then is its own.
    migration.patch({"bandwidth": 2 * SLOW_BYTES})
    after = wait_until(
        lambda: next(
            (s for s in [migration.status()] if s["effective"]["bandwidthBytesPerSecond"] == 2 * SLOW_BYTES), None
        ),
        "the new agent writes the status",
    )["progress"]
    assert after["copiedBytes"] >= before["copiedBytes"]
    assert after["percent"] >= before["percent"]
    let_go(migration)
    assert_moved(stack, machine, "file-a", "loop-b", migration)


@pytest.mark.nightly
@pytest.mark.parametrize("phase", first_by_day(["Replicating", "Synchronized"]))
def test_what_was_wished_while_the_agent_was_away_is_done(stack: Stack, machines: Machines, phase: str) -> None:
    machine = machines("loop-a")
    migration = hold(stack, machine, "file-b", phase)
    stack.agent.kill()
    try:
        migration.patch({"bandwidth": None, "cutover": {"policy": "Automatic"}})
    finally:
        stack.agent.start()
    migration.succeed(seconds=15)
    assert_moved(stack, machine, "loop-a", "file-b", migration)


@pytest.mark.parametrize("wish", first_by_day(["cancel", "delete"]))
@pytest.mark.parametrize("phase", first_by_day(PHASES))
def test_one_that_was_given_up_while_the_agent_was_away_is_cleaned_up(
    stack: Stack, machines: Machines, phase: str, wish: str
) -> None:
    machine = machines("file-a", chain=1 if phase == "Replicating" else 2)
    chain, files = machine.chain(), stack.domains["file-a"].files()
    migration = hold(stack, machine, "loop-b", phase)
    stack.agent.kill()
    try:
        if wish == "cancel":
            migration.patch({"cancel": True})
        else:
            migration.delete()
    finally:
        stack.agent.start()
    if wish == "cancel":
        status = migration.wait_for_phase("Cancelled")
        assert status["failure"]["phase"] == phase
    else:
        wait_until(migration.is_gone, "the object is gone")
    assert machine.chain() == chain
    assert stack.domains["file-a"].files() == files
    assert stack.domains["loop-b"].files() == []
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    machine.verify()


@pytest.mark.nightly
def test_a_mirror_that_ended_while_the_agent_was_away_is_made_again(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2)
    migration = hold(stack, machine, "loop-b", "Synchronized")
    stack.agent.kill()
    try:
        stack.host.virsh("blockjob", machine.name, "vda", "--abort")
        machine.write(offset=70 * MEBIBYTE, length=2 * MEBIBYTE, pattern=70)
    finally:
        stack.agent.start()
    let_go(migration)
    assert_moved(stack, machine, "file-a", "loop-b", migration)


def test_an_operator_that_is_killed_is_not_missed(stack: Stack, operator: Program, machines: Machines) -> None:
    machine = machines("loop-a", chain=1)
    migration = hold(stack, machine, "file-b", "Replicating")
    operator.kill()
    try:
        let_go(migration)
        assert_moved(stack, machine, "loop-a", "file-b", migration)
        assert migration.get()["metadata"]["finalizers"]
    finally:
        operator.start()
    wait_until(lambda: not migration.get()["metadata"].get("finalizers"), "the operator lets the object go")
    # The operator is back, and takes new work.
    stack.migrate(machine, "loop-a").succeed()


@pytest.mark.nightly
@pytest.mark.parametrize(("phase", "source", "destination"), first_by_day(WAYS))
def test_a_restart_of_libvirtd_is_waited_out(
    stack: Stack, machines: Machines, source: str, destination: str, phase: str
) -> None:
    machine = machines(source, chain=1 if phase == "Replicating" else 2)
    migration = hold(stack, machine, destination, phase)

    stack.host.restart_daemon()

    machine.write(offset=70 * MEBIBYTE, length=2 * MEBIBYTE, pattern=70)
    status = let_go(migration)
    assert status["attempts"] == 1
    assert_moved(stack, machine, source, destination, migration)


_URI = "https://diskmigration.dev/journal/v1/vda"


def leave_journal(stack: Stack, machine: Machine, *, has_ended: bool) -> Migration:
    """A migration that was cancelled, and left its journal on the VM; whether that says that it has ended."""
    migration = hold(stack, machine, "loop-b", "Synchronized")
    journal = ET.fromstring(stack.host.virsh("metadata", machine.name, f"--uri={_URI}"))
    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    if has_ended:
        # As an agent leaves it that is killed after its last word, before it could erase it.
        journal.text = json.dumps({**json.loads(journal.text or ""), "outcome": "Cancelled"})
    left = ET.tostring(journal, encoding="unicode")
    options = [f"--uri={_URI}", "--key=diskmigration", "--live", "--config"]
    stack.host.virsh("metadata", machine.name, *options, f"--set={left}")
    return migration


@pytest.mark.nightly
def test_the_journal_of_one_that_has_ended_goes_with_the_next_agent(stack: Stack, machines: Machines) -> None:
    machine, other = machines("file-a"), machines("file-a")
    leave_journal(stack, machine, has_ended=True)
    leave_journal(stack, other, has_ended=False)
    stack.agent.kill()
    stack.agent.start()
    wait_until(lambda: not machine.has_journal(), "it was erased")
    assert other.has_journal(), "nobody knows what is left of that one"


@pytest.mark.parametrize("has_ended", first_by_day([False, True]))
def test_a_journal_that_was_left_behind_stops_only_what_it_must(
    stack: Stack, machines: Machines, has_ended: bool
) -> None:
    machine = machines("file-a")
    first = leave_journal(stack, machine, has_ended=has_ended)

    second = stack.migrate(machine, "loop-b")

    if has_ended:
        second.succeed()
        assert_moved(stack, machine, "file-a", "loop-b", second)
    else:
        failure = second.wait_for_phase("Failed")["failure"]
        assert failure["reason"] == "DiskBusy"
        assert first.name in failure["message"]
        assert _URI in failure["message"]
        stack.host.virsh("metadata", machine.name, f"--uri={_URI}", "--remove", "--live", "--config")
        stack.migrate(machine, "loop-b").succeed()


def test_libvirtd_killed_at_the_pivot_ends_well(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2)
    chain = machine.chain()
    migration = hold(stack, machine, "loop-b", "Synchronized")
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.wait_for_phase("Pivoting", "Merging", "CleaningUp", "Succeeded")
    stack.host.kill_daemon()
    stack.host.start_daemon()

    phase = wait_until(lambda: end_of(migration), "it ends, or waits", seconds=60)
    if phase in FINAL:
        assert_moved(stack, machine, "file-a", "loop-b", migration)
        return
    # libvirtd was killed while it noted the end of the block job.
    stack.host.end_qemu(machine.name)
    status = migration.wait_for_phase("Succeeded", "Failed")
    stack.host.virsh("start", machine.name, "--paused")
    if status["phase"] == "Succeeded":
        assert_moved(stack, machine, "file-a", "loop-b", migration)
        return
    assert status["failure"]["reason"] == "VirtualMachineStopped"
    assert machine.chain() == chain
    machine.verify()
    assert stack.domains["loop-b"].files() == []


def end_of(migration: Migration) -> str:
    """The final phase, or that the migration waits as libvirt has lost track."""
    phase = migration.phase()
    return phase if phase in FINAL else migration.lost_track()


@pytest.mark.nightly
def test_everything_restarted_at_once(stack: Stack, operator: Program, machines: Machines) -> None:
    machine = machines("loop-a", chain=2)
    migration = hold(stack, machine, "file-b", "Synchronized")
    operator.kill()
    stack.agent.kill()
    stack.host.kill_daemon()
    try:
        stack.host.start_daemon()
    finally:
        stack.agent.start()
        operator.start()
    let_go(migration)
    assert_moved(stack, machine, "loop-a", "file-b", migration)
