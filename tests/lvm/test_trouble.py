"""A group that runs full, an agent that dies between LVM's act and its answer, and what is left of migrations."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.migrations.growth import finish, synchronized
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.moves import assert_moved
from tests.integration.migrations.stack import NODE, Stack
from tests.integration.migrations.volumes import made_volume
from tests.lvm.groups import Group, run
from tests.lvm.wrappers import Wrappers
from tests.lvm.writing import write
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]
Lvs = Callable[[str], dict[str, int]]
Filler = Callable[[int], None]

OURS = "diskmigration.dev"
INCOMPLETE = "diskmigration.dev/incomplete"


def test_a_disk_that_does_not_fit_into_the_group_is_refused_before_anything_is_made(
    stack: Stack, machines: Machines, lvs: Lvs, filler: Filler
) -> None:
    machine = machines("file-a")
    filler(8)
    before = lvs("before")
    failure = stack.migrate(machine, "lvm-small").wait_for_phase("Failed")["failure"]
    assert failure["reason"] == "DestinationFull"
    assert lvs("after") == before
    machine.verify()


def test_a_group_that_runs_full_leaves_the_vm_on_its_source_and_nothing_behind(
    stack: Stack, machines: Machines, lvs: Lvs, filler: Filler
) -> None:
    machine = machines("file-a")
    chain, files = machine.chain(), stack.domains["file-a"].files()
    migration = synchronized(stack, machine, "lvm-small")
    filler(0)
    before = lvs("in step, and the group full")

    for offset in range(20 * MEBIBYTE, 100 * MEBIBYTE, 8 * MEBIBYTE):
        machine.write(offset=offset, length=8 * MEBIBYTE, pattern=offset // MEBIBYTE)
    failure = migration.wait_for_phase("Failed")["failure"]

    # Said by what could not grow, or by the next attempt, which does not fit any more.
    assert failure["reason"] == "DestinationFull"
    assert "lvm-small" in failure["message"]
    after = lvs("after")
    assert after == {name: size for name, size in before.items() if name.endswith("/somebody-elses")}
    assert machine.chain() == chain
    assert stack.domains["file-a"].files() == files
    assert machine.state() == "paused"
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    machine.verify()


def restarted(stack: Stack) -> None:
    """An agent in the place of the one that was killed."""
    stack.agent.kill()
    stack.agent.start()


@pytest.mark.parametrize(("source", "destination"), [("file-a", "lvm-b"), ("lvm-a", "file-a")])
def test_an_agent_killed_after_lvcreate_knows_the_volume_for_its_own(
    stack: Stack, machines: Machines, lvs: Lvs, wrappers: Wrappers, source: str, destination: str
) -> None:
    """Of the destination's volume, and of the snapshot's on the source."""
    machine = machines(source)
    wrappers.kill_caller_after("lvcreate")
    migration = stack.migrate(machine, destination)
    wait_until(lambda: wrappers.has_killed("lvcreate"), "the agent was killed", seconds=60)
    lvs("after the agent's death")
    restarted(stack)

    status = migration.succeed(seconds=120)

    assert status["attempts"] == 1
    lvs("after")
    machine.verify()
    assert_moved(stack, machine, source, destination, migration.uid, length=1)


def test_an_agent_killed_after_lvextend_sees_the_size_that_there_is(
    stack: Stack, machines: Machines, lvs: Lvs, wrappers: Wrappers
) -> None:
    machine = machines("lvm-a")
    migration = synchronized(stack, machine, "lvm-b")
    source = stack.domains["lvm-a"].path(made_volume(migration.uid, "snapshot"))
    lvs("in step")
    wrappers.kill_caller_after("lvextend")

    write(machine, source, mebibytes=28)
    wait_until(lambda: wrappers.has_killed("lvextend"), "the agent was killed", seconds=60)
    lvs("after the agent's death")
    restarted(stack)

    write(machine, source, start_mebibytes=58, mebibytes=24)
    lvs("after the guest has written on")
    finish(migration, machine)
    assert_moved(stack, machine, "lvm-a", "lvm-b", migration.uid, length=1)


@contextmanager
def agent_away(stack: Stack) -> Iterator[None]:
    """No agent runs in the block."""
    stack.agent.stop()
    try:
        yield
    finally:
        stack.agent.start()


def orphans(stack: Stack, domain: str) -> dict[str, str]:
    """The volumes that the node reports as left behind, each with the reason why it is still there."""
    status: dict[str, Any] = stack.host_object().get("status", {})
    for found in status.get("storageDomains", []):
        if found["name"] == domain:
            return {volume["name"]: volume["reason"] for volume in found.get("orphanedVolumes", [])}
    return {}


def test_what_migrations_left_behind_goes_if_it_is_ours_and_nobody_uses_it(
    stack: Stack, machines: Machines, lvs: Lvs
) -> None:
    group = Group(stack.domains["lvm-b"].root.name, ())
    gone, used, kept = (f"dm-{uuid.uuid4()}-0" for _ in range(3))

    def ours(volume: str) -> tuple[str, ...]:
        return OURS, f"diskmigration.dev/migration={volume[3:-2]}", f"diskmigration.dev/node={NODE}"

    with agent_away(stack):
        group.make(gone, 16, *ours(gone), INCOMPLETE)
        opened = group.make(used, 16, *ours(used), INCOMPLETE)
        group.make(kept, 16, *ours(kept))
        group.make("somebody-elses", 16)
        group.make("of-another-node", 16, OURS, INCOMPLETE, "diskmigration.dev/node=node-b")
        lvs("while the agent is away")
        run("dmsetup", "create", "holds-it", f"--table=0 {16 * MEBIBYTE // 512} linear {opened} 0")

    try:
        wait_until(lambda: f"lvm-b/{gone}" not in lvs("with an agent"), "the one that is ours was removed", seconds=60)
        reason = wait_until(lambda: orphans(stack, "lvm-b").get(used), "the one in use is reported", seconds=60)
        assert "open" in reason
        assert set(orphans(stack, "lvm-b")) == {used}
    finally:
        run("dmsetup", "remove", "holds-it")
    with agent_away(stack):
        pass
    wait_until(lambda: f"lvm-b/{used}" not in lvs("with a new agent"), "it was removed, too", seconds=60)
    wait_until(lambda: orphans(stack, "lvm-b") == {}, "nothing is reported any more", seconds=60)
    after = {f"lvm-b/{name}" for name in (kept, "somebody-elses", "of-another-node")}
    assert set(lvs("after")) == after


def test_what_a_vm_uses_is_no_orphan_whatever_its_tags_say(stack: Stack, machines: Machines, lvs: Lvs) -> None:
    machine = machines("lvm-a", start=False)
    volume = machine.volumes[0]
    with agent_away(stack):
        run(
            "lvchange",
            *["--addtag", INCOMPLETE],
            *["--addtag", f"diskmigration.dev/node={NODE}"],
            f"lvm-a/{volume.name}",
        )
    wait_until(lambda: volume.name in orphans(stack, "lvm-a"), "it is reported, as nobody would expect it", seconds=60)
    assert f"lvm-a/{volume.name}" in lvs("after")
