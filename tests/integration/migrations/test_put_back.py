"""A VM's old definition comes back in mid-migration: what the guest wrote since stays, and the status says where."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed import qemu_io
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import FINAL, Migration, Stack
from tests.integration.migrations.test_lifecycle import MARK, Held, hold
from tests.integration.migrations.volumes import made_volume
from tests.waiting import wait_until

Machines = Callable[..., Machine]


def holds_mark(volume: Path) -> bool:
    """Return whether a qcow2 volume has by itself, whatever is below it, what the guest wrote after the snapshot."""
    protocol = "host_device" if volume.is_block_device() else "file"
    image = {"driver": "qcow2", "backing": None, "file": {"driver": protocol, "filename": str(volume)}}
    command = f"read -P {MARK['pattern']} {MARK['offset']} {MARK['length']}"
    done = subprocess.run(
        ["qemu-io", "-U", "-r", "-c", command, f"json:{json.dumps(image)}"], capture_output=True, text=True, check=False
    )
    assert f"read {MARK['length']}" in done.stdout, f"{volume}: {done.stdout}{done.stderr}"
    return "verification failed" not in done.stdout


def definition_of(stack: Stack, machine: Machine, *, live: bool = False) -> Path:
    """Return a file with the VM's definition as it is now."""
    path = stack.domains["file-a"].directory / f"{machine.uuid}-old.xml"
    path.write_text(machine.xml(inactive=not live))
    return path


def put_back(held: Held, definition: Path, *, agent: str, starts: bool, lets_go: bool = True) -> None:
    """Define the VM again, shut it off and perhaps start it, while the agent lives or is killed; the migration goes on.

    The agent that is killed starts again after that.
    """
    stack, name = held.migration.stack, held.machine.name
    qemu_io.flush(stack.host, name)
    if agent == "restarts":
        stack.agent.kill()
    try:
        stack.host.virsh("define", str(definition))
        stack.host.virsh("destroy", name)
        if starts:
            stack.host.virsh("start", name, "--paused")
    finally:
        if agent == "restarts":
            stack.agent.start()
    if lets_go:
        held.migration.patch({"bandwidth": None, "cutover": None})


def foreign_change(migration: Migration) -> str:
    """Return the message of a migration that has failed as somebody else changed the disk."""
    status = wait_until(
        lambda: migration.status() if migration.phase() in FINAL else None, "the migration has ended", seconds=60
    )
    assert status["phase"] == "Failed", status
    assert status["failure"]["reason"] == "ForeignChange", status
    assert status["attempts"] == 1
    return str(status["failure"]["message"])


def left_by(held: Held) -> dict[str, list[str]]:
    """Return the migration's volumes that are there, by storage domain."""
    stack, prefix = held.migration.stack, f"dm-{held.migration.uid}-"
    return {
        name: [file for file in domain.files() if file.startswith(prefix)] for name, domain in stack.domains.items()
    }


def assert_all_is_named(held: Held, message: str) -> None:
    """Assert that the user's volumes are there, and that the message names every volume of the migration that is."""
    stack = held.migration.stack
    for name, domain in stack.domains.items():
        assert set(held.files[name]) <= set(domain.files())
    for name, files in left_by(held).items():
        for file in files:
            assert f"{stack.domains[name].path(file)} in the storage domain {name}" in message


VARIANTS = [
    pytest.param(phase, agent, starts, pair, marks=() if is_quick else pytest.mark.nightly)
    for pair in (("file-a", "file-b"), ("loop-a", "loop-b"))
    for phase in ("CopyingChain", "Synchronized")
    for agent in ("lives", "restarts")
    for starts in (False, True)
    for is_quick in [(phase, agent, starts, pair[0]) == ("Synchronized", "restarts", True, "file-a")]
]


@pytest.mark.parametrize(("phase", "agent", "starts", "pair"), VARIANTS)
def test_an_old_definition_that_comes_back_costs_no_writes(
    stack: Stack, machines: Machines, phase: str, agent: str, starts: bool, pair: tuple[str, str]
) -> None:
    source, destination = pair
    machine = machines(source, chain=2)
    old = definition_of(stack, machine)
    held = hold(stack, machine, destination, phase)
    snapshot = stack.domains[source].path(made_volume(held.migration.uid, "snapshot"))

    put_back(held, old, agent=agent, starts=starts)

    message = foreign_change(held.migration)
    assert holds_mark(snapshot)
    # An agent that finds no journal cannot tell whether what was mirrored has been pivoted too. The VM may have ended
    # before its last write was mirrored.
    overlay = stack.domains[destination].path(made_volume(held.migration.uid, "overlay"))
    is_told = (phase, agent) != ("Synchronized", "restarts") or not holds_mark(overlay)
    told = f"The guest wrote last to {snapshot}." if is_told else "Which volume the guest wrote to last cannot be told."
    assert told in message
    assert_all_is_named(held, message)
    assert machine.chain(inactive=True)[0] == held.chain[0]
    wait_until(lambda: not machine.has_journal(), "the disk is free")
