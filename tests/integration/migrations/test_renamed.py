"""A VM gets another name or another definition in mid-migration: it is found again, or all is kept and named."""

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Stack
from tests.integration.migrations.test_lifecycle import Held, hold
from tests.integration.migrations.test_put_back import assert_all_is_named, foreign_change
from tests.waiting import wait_until

Machines = Callable[..., Machine]


def quick(*values: object) -> Any:
    return pytest.param(*values)


def at_night(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.nightly)


def rename(held: Held) -> None:
    """Shut the VM off and give it another name, as `virsh domrename` does of one that is off."""
    name = f"renamed-{uuid.uuid4().hex[:8]}"
    stack = held.migration.stack
    stack.host.virsh("destroy", held.machine.name)
    stack.host.virsh("domrename", held.machine.name, name)
    held.machine.name = name


@pytest.mark.parametrize(
    ("phase", "agent", "has_namesake"),
    [
        quick("CopyingChain", "restarts", True),
        at_night("Synchronized", "lives", False),
        at_night("CopyingChain", "lives", False),
        at_night("CopyingChain", "lives", True),
        at_night("CopyingChain", "restarts", False),
        at_night("Synchronized", "lives", True),
        at_night("Synchronized", "restarts", False),
        at_night("Synchronized", "restarts", True),
    ],
)
def test_a_vm_that_was_renamed_is_found_by_its_uuid(
    stack: Stack, machines: Machines, phase: str, agent: str, has_namesake: bool
) -> None:
    """A namesake is another VM that has the old name now."""
    held = hold(stack, machines("file-a", chain=2), "file-b", phase)
    old_name = held.machine.name
    if agent == "restarts":
        stack.agent.kill()
    rename(held)
    namesake = machines("file-a", name=old_name, volume_names=[f"{old_name}-namesake"]) if has_namesake else None
    if agent == "restarts":
        stack.agent.start()
    held.migration.patch({"bandwidth": None, "cutover": None})

    assert held.migration.succeed()["attempts"] == 1

    stack.host.virsh("start", held.machine.name, "--paused")
    held.machine.verify()
    assert held.machine.chain()[0][0].startswith(str(stack.domains["file-b"].root))
    if namesake is not None:
        namesake.verify()
        assert stack.domains["file-a"].files() == [f"{old_name}-namesake"]


def redefine(held: Held, *, keeps_metadata: bool) -> None:
    """Have another VM, with another uuid, in place of the VM, with the same name and the same disk."""
    stack, machine = held.migration.stack, held.machine
    document = ET.fromstring(machine.xml(inactive=True))
    metadata = document.find("metadata")
    if metadata is not None and not keeps_metadata:
        document.remove(metadata)
    stack.host.virsh("undefine", machine.name)
    stack.host.virsh("destroy", machine.name)
    machine.uuid = str(uuid.uuid4())
    identity = document.find("uuid")
    assert identity is not None
    identity.text = machine.uuid
    path = stack.domains["file-a"].directory / f"{machine.uuid}.xml"
    path.write_text(ET.tostring(document, encoding="unicode"))
    stack.host.virsh("define", str(path))


@pytest.mark.parametrize("phase", ["CopyingChain", pytest.param("Synchronized", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("keeps_metadata", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_of_a_vm_that_was_defined_with_another_uuid_nothing_is_lost(
    stack: Stack, machines: Machines, phase: str, keeps_metadata: bool
) -> None:
    held = hold(stack, machines("file-a", chain=2), "file-b", phase)
    stack.agent.kill()
    redefine(held, keeps_metadata=keeps_metadata)
    stack.agent.start()
    held.migration.patch({"bandwidth": None, "cutover": None})

    if keeps_metadata:
        held.migration.succeed()
    else:
        assert_all_is_named(held, foreign_change(held.migration))

    stack.host.virsh("start", held.machine.name, "--paused")
    held.machine.verify()


@pytest.mark.nightly
def test_a_vm_that_is_gone_although_its_migration_had_begun_has_all_kept(stack: Stack, machines: Machines) -> None:
    """Nobody saw it go: it may run anywhere."""
    held = hold(stack, machines("file-a", chain=2), "file-b", "Synchronized")
    definition = stack.domains["file-a"].directory / f"{held.machine.uuid}-later.xml"
    definition.write_text(held.machine.xml(inactive=True))
    stack.agent.kill()
    stack.host.virsh("undefine", held.machine.name)
    stack.host.virsh("destroy", held.machine.name)
    stack.agent.start()

    assert_all_is_named(held, foreign_change(held.migration))

    stack.host.virsh("define", str(definition))
    stack.host.virsh("start", held.machine.name, "--paused")
    held.machine.verify()
    held.machine.write(offset=90 * MEBIBYTE, length=MEBIBYTE, pattern=90)
    wait_until(lambda: not held.migration.get()["metadata"].get("finalizers"), "the object may go")
