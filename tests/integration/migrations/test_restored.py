"""A VM that was restored while paused: from QEMU 10 on, nothing works on its disks until it is resumed."""

import json
from collections.abc import Callable

import pytest

from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]


def restored(machine: Machine) -> bool:
    """Saves the VM and restores it paused; whether its QEMU has inactive block nodes then."""
    machine.host.virsh("managedsave", machine.name)
    machine.host.virsh("start", machine.name, "--paused")
    query = json.dumps({"execute": "query-named-block-nodes"})
    answer: dict[str, list[dict[str, object]]] = json.loads(
        machine.host.virsh("qemu-monitor-command", machine.name, query)
    )
    return any(node.get("active", True) is False for node in answer["return"])


def wait_for_resume(migration: Migration) -> None:
    """Waits until the migration says that it waits for it, and has used up no attempt."""
    wait_until(lambda: migration.is_stalled_by("VirtualMachinePaused"), "it waits for the VM to be resumed", seconds=60)
    assert "virsh resume" in migration.condition("Stalled")["message"]
    assert migration.status()["attempts"] == 1


@pytest.mark.parametrize("strategy", ["Snapshot", pytest.param("Direct", marks=pytest.mark.nightly)])
def test_it_moves_as_soon_as_it_is_resumed(stack: Stack, machines: Machines, strategy: str) -> None:
    machine = machines("file-a")
    must_be_resumed = restored(machine)
    migration = stack.migrate(machine, "loop-b", strategy=strategy, backoffLimit=0)
    if must_be_resumed:
        wait_for_resume(migration)
        machine.host.virsh("resume", machine.name)
        machine.host.virsh("suspend", machine.name)
    status = migration.succeed()
    assert status["attempts"] == 1
    machine.verify()


@pytest.mark.nightly
def test_a_move_of_it_can_be_cancelled(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    chain = machine.chain()
    must_be_resumed = restored(machine)
    migration = stack.migrate(machine, "loop-b", cutover={"policy": "Manual"})
    if must_be_resumed:
        wait_for_resume(migration)
    migration.patch({"cancel": True})
    if must_be_resumed:
        # The snapshot cannot be merged back before.
        wait_for_resume(migration)
        machine.host.virsh("resume", machine.name)
        machine.host.virsh("suspend", machine.name)
    migration.wait_for_phase("Cancelled")
    assert machine.chain() == chain
    machine.verify()
