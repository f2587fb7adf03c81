"""A VM that ends in mid-migration: its disk is in one place, whole, and the status says where."""

from collections.abc import Callable

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Migration, Stack

PAIRS = [("file-a", "loop-b"), ("loop-a", "file-b")]


def synchronize_and_write(stack: Stack, machine: Machine, to: str) -> Migration:
    """A migration in step, with data that only the active layer has."""
    migration = stack.migrate(machine, to, cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    machine.write(offset=60 * MEBIBYTE, length=3 * MEBIBYTE, pattern=60)
    return migration


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_vm_that_was_shut_off_keeps_its_disk_and_its_chain(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source, chain=3)
    before = machine.chain()
    files = stack.domains[source].files()
    migration = synchronize_and_write(stack, machine, destination)

    stack.host.virsh("destroy", machine.name)

    status = migration.wait_for_phase("Failed")
    assert status["failure"]["reason"] == "VirtualMachineStopped"
    assert machine.chain(inactive=True)[0] == before[0]
    assert stack.domains[source].files() == files
    assert stack.domains[destination].files() == []
    stack.host.virsh("start", machine.name, "--paused")
    assert machine.chain() == before
    machine.verify()


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_vm_that_is_gone_with_its_definition_leaves_its_disk_whole(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source)
    files = stack.domains[source].files()
    definition = stack.domains[source].root.parent / f"{machine.name}.xml"
    migration = synchronize_and_write(stack, machine, destination)

    stack.host.virsh("undefine", machine.name)
    stack.host.virsh("destroy", machine.name)

    status = migration.wait_for_phase("Failed")
    assert status["failure"]["reason"] == "VirtualMachineStopped"
    assert str(machine.volumes[0]) in status["failure"]["message"]
    assert stack.domains[source].files() == files
    assert stack.domains[destination].files() == []
    stack.host.virsh("define", str(definition))
    stack.host.virsh("start", machine.name, "--paused")
    machine.verify()
