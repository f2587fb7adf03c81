"""Somebody else changes something in mid-migration: the guest's data stays whole, and the status says what to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import NAMESPACE, NODE, Migration, Stack
from tests.integration.migrations.test_lifecycle import Held, assert_moved, hold
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

PAIRS = [("file-a", "loop-b"), ("loop-a", "file-b")]


def patch_status(held: Held, status: dict[str, object]) -> None:
    """Edits the status by hand."""
    held.migration.stack.control_plane.kubectl(
        "patch",
        "dm",
        held.migration.name,
        f"--namespace={NAMESPACE}",
        "--subresource=status",
        "--type=merge",
        f"--patch={json.dumps({'status': status})}",
    )


def failure_of(migration: Migration) -> str:
    """The message of a migration that failed as somebody else changed the disk."""
    failure = migration.wait_for_phase("Failed")["failure"]
    assert failure["reason"] == "ForeignChange"
    return str(failure["message"])


def wait_for_message(migration: Migration, part: str) -> None:
    """Returns when the migration says so, while it goes on."""
    wait_until(lambda: part in migration.condition("Succeeded")["message"], f"it says: {part}")


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_a_pivot_by_hand_is_as_good(stack: Stack, machines: Machines, source: str, destination: str) -> None:
    held = hold(stack, machines(source, chain=2), destination, "Synchronized")
    stack.host.virsh("blockjob", held.machine.name, "vda", "--pivot")
    held.migration.succeed()
    assert_moved(stack, held.machine, destination)
    assert stack.domains[source].files() == []


@pytest.mark.nightly
def test_a_foreign_job_is_waited_for_and_the_chain_is_as_before(
    stack: Stack, machines: Machines, scratch: Path
) -> None:
    held = hold(stack, machines("file-a", chain=3), "loop-b", "CopyingChain")
    name = held.machine.name
    stack.host.virsh(
        "blockcopy", name, "vda", f"--dest={scratch / 'elsewhere'}", "--format=qcow2", "--transient-job", "--bytes", "1"
    )

    held.migration.patch({"bandwidth": None})
    wait_for_message(held.migration, "foreign block job")
    held.machine.write(offset=64 * MEBIBYTE, length=MEBIBYTE, pattern=64)
    stack.host.virsh("blockjob", name, "vda", "--abort")

    assert "foreign block job (copy)" in failure_of(held.migration)
    held.assert_as_before()


def test_a_backup_is_waited_for(stack: Stack, machines: Machines, scratch: Path) -> None:
    held = hold(stack, machines("file-a", chain=3), "loop-b", "CopyingChain")
    document = scratch / "backup.xml"
    # Pulled through a socket, which QEMU makes, it lasts until somebody ends it.
    stack.host.give_to_qemu(scratch)
    document.write_text(
        f"<domainbackup mode='pull'><server transport='unix' socket='{scratch / 'socket'}'/>"
        f"<disks><disk name='vda' type='file'><scratch file='{scratch / 'below'}'/></disk></disks></domainbackup>"
    )
    stack.host.virsh("backup-begin", held.machine.name, str(document))
    held.migration.patch({"bandwidth": None})
    wait_for_message(held.migration, "foreign block job")
    stack.host.virsh("domjobabort", held.machine.name)
    assert "foreign block job (backup)" in failure_of(held.migration)
    held.assert_as_before()


def test_a_snapshot_by_hand_is_left_alone_and_so_is_all_below_it(
    stack: Stack, machines: Machines, scratch: Path
) -> None:
    held = hold(stack, machines("file-a", chain=3), "loop-b", "CopyingChain")
    name, overlay = held.machine.name, scratch / "overlay"
    stack.host.virsh("snapshot-create-as", name, "--disk-only", "--no-metadata", f"--diskspec=vda,file={overlay}")
    held.migration.patch({"bandwidth": None})

    message = failure_of(held.migration)

    ours = stack.domains["file-a"].path(made_volume(held.migration.uid, "snapshot"))
    assert str(overlay) in message
    assert str(ours) in message
    assert held.machine.chain() == [(str(overlay), "qcow2"), (str(ours), "qcow2"), *held.chain]
    left = stack.domains["loop-b"].files()
    assert left == [made_volume(held.migration.uid, role) for role in ("0", "1", "2", "overlay")]
    assert all(str(stack.domains["loop-b"].path(name)) in message for name in left)
    held.machine.verify()
    # It is free for the next one, once what is left is merged.
    wait_until(lambda: not held.machine.has_journal(), "the disk is free")


@pytest.mark.parametrize("ends_by", ["cancel", pytest.param("bandwidth", marks=pytest.mark.nightly)])
def test_an_internal_snapshot_by_hand_is_left_alone(stack: Stack, machines: Machines, ends_by: str) -> None:
    held = hold(stack, machines("file-a", chain=3), "loop-b", "CopyingChain")
    stack.host.virsh("snapshot-create-as", held.machine.name, "mine")
    then = dict(held.machine.written)
    held.machine.write(offset=64 * MEBIBYTE, length=MEBIBYTE, pattern=64)
    held.migration.patch({"cancel": True} if ends_by == "cancel" else {"bandwidth": None})

    message = failure_of(held.migration)

    ours = stack.domains["file-a"].path(made_volume(held.migration.uid, "snapshot"))
    assert "internal snapshot" in message
    assert str(ours) in message
    assert held.machine.chain() == [(str(ours), "qcow2"), *held.chain]
    held.machine.verify()
    wait_until(lambda: not held.machine.has_journal(), "the disk is free")
    stack.host.virsh("snapshot-revert", held.machine.name, "mine", "--paused")
    held.machine.written = then
    held.machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_a_snapshot_that_was_merged_by_hand_is_not_copied_on(
    stack: Stack, machines: Machines, source: str, destination: str
) -> None:
    held = hold(stack, machines(source, chain=3), destination, "CopyingChain")
    top = held.chain[0][0]
    stack.host.virsh("blockcommit", held.machine.name, "vda", f"--base={top}", "--active", "--pivot")
    # What was copied below it is not what is there any more.
    held.machine.write(offset=0, length=MEBIBYTE, pattern=99)
    held.machine.written[0] = (MEBIBYTE, 99)
    held.machine.written[MEBIBYTE] = (4 * MEBIBYTE, 1)
    held.migration.patch({"bandwidth": None})

    assert "lost the migration's snapshot" in failure_of(held.migration)
    held.assert_as_before()


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_a_disk_that_is_detached_is_whole_where_it_was(
    stack: Stack, machines: Machines, source: str, destination: str
) -> None:
    machine = machines(source, chain=3)
    definition = stack.domains[source].directory / f"{machine.uuid}.xml"
    held = hold(stack, machine, destination, "Synchronized")
    stack.host.virsh("detach-disk", machine.name, "vda", "--config")
    # The disk goes with the VM's next end, as this one has no operating system that could let it go before.
    stack.host.virsh("destroy", machine.name)

    message = failure_of(held.migration)

    assert "was detached" in message
    assert held.chain[0][0] in message
    assert {name: domain.files() for name, domain in stack.domains.items()} == held.files
    stack.host.virsh("define", str(definition))
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.nightly
def test_of_a_disk_that_was_detached_unseen_all_is_kept(stack: Stack, machines: Machines) -> None:
    held = hold(stack, machines("file-a"), "loop-b", "Synchronized")
    files = {name: domain.files() for name, domain in stack.domains.items()}
    stack.agent.kill()
    stack.host.virsh("detach-disk", held.machine.name, "vda", "--config")
    stack.host.virsh("destroy", held.machine.name)
    stack.agent.start()

    message = failure_of(held.migration)

    for name in (made_volume(held.migration.uid, "snapshot"), made_volume(held.migration.uid, "overlay")):
        assert name in message
    assert {name: domain.files() for name, domain in stack.domains.items()} == files


@pytest.mark.parametrize("phase", first_by_day(["Succeeded", "Failed", "Pending"]))
def test_a_status_that_is_edited_by_hand_is_put_right(stack: Stack, machines: Machines, phase: str) -> None:
    held = hold(stack, machines("file-a"), "loop-b", "Synchronized")
    before = held.migration.status()
    patch_status(held, {"phase": phase, "conditions": []})
    wait_until(lambda: held.migration.phase() == "Synchronized", "its phase is right again")
    wait_until(
        lambda: (
            {one["type"]: one["status"] for one in held.migration.status().get("conditions", [])}
            == {one["type"]: one["status"] for one in before["conditions"]}
        ),
        "its conditions are right again",
    )
    held.migration.patch({"cutover": {"policy": "Automatic"}})
    held.migration.succeed()
    assert_moved(stack, held.machine, "loop-b")


def test_an_object_that_is_torn_away_is_cleaned_up_after(stack: Stack, machines: Machines) -> None:
    held = hold(stack, machines("file-a", chain=2), "loop-b", "Synchronized")
    stack.control_plane.kubectl(
        "patch",
        "dm",
        held.migration.name,
        f"--namespace={NAMESPACE}",
        "--type=merge",
        '--patch={"metadata": {"finalizers": null}}',
    )
    held.migration.delete()
    wait_until(held.migration.is_gone, "the object is gone")
    wait_until(lambda: not held.machine.has_journal(), "the migration is cleaned up")
    held.assert_as_before()


@pytest.mark.parametrize("name", first_by_day(["file-a", "loop-b"]))
def test_a_storage_domain_that_is_deleted_holds_up_nothing_under_way(
    stack: Stack, machines: Machines, name: str
) -> None:
    held = hold(stack, machines("file-a", chain=2), "loop-b", "Synchronized")
    try:
        stack.control_plane.kubectl("delete", "storagedomain", name)
        held.migration.patch({"cutover": {"policy": "Automatic"}})
        held.migration.succeed()
        assert_moved(stack, held.machine, "loop-b")
        assert stack.domains["file-a"].files() == []
    finally:
        stack.make_ready({name: stack.domains[name]})


@pytest.mark.nightly
def test_a_node_object_that_is_deleted_ends_no_migration_of_an_agent_that_lives(
    stack: Stack, machines: Machines
) -> None:
    held = hold(stack, machines("file-a", chain=2), "loop-b", "Synchronized")
    try:
        stack.control_plane.kubectl("delete", "node", NODE)
        held.migration.patch({"cutover": {"policy": "Automatic"}})
        held.migration.succeed()
        assert_moved(stack, held.machine, "loop-b")
    finally:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        stack.control_plane.kubectl("create", "--filename=-", stdin=json.dumps(node))
