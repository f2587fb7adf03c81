"""Nothing waits in silence: wherever a migration stands, it says in which phase, what it does, and since when."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.integration.faults.holds import Holds
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

BEFORE = (
    ("TakeSnapshot", "Snapshotting", "Taking a snapshot of vda"),
    ("PrepareDestination", "PreparingDestination", "Measuring vda and making its volumes"),
    ("CopyChain", "CopyingChain", "Copying the frozen volumes of vda"),
    ("StartReplication", "Replicating", "Starting the mirror of vda to /"),
    ("AwaitCutover", "Synchronized", "Waiting for spec.cutover.policy to become Automatic"),
)
FORWARD = (
    *BEFORE,
    ("Pivot", "Pivoting", "Switching vda to /"),
    ("Merge", "Merging", "Merging /"),
    ("CleanUpSource", "CleaningUp", "Removing the volumes of vda that are not needed any more"),
)
BACK = (
    *BEFORE,
    ("AbortReplication", "CleaningUp", "Ending the mirror of vda to /"),
    ("MergeBack", "CleaningUp", "Merging /"),
    ("DiscardDestination", "CleaningUp", "Removing the volumes that the migration made"),
)
COLD = (
    *BEFORE[1:3],
    ("CopyCold", "Replicating", "Copying vda, whose VM is off, to /"),
    BEFORE[-1],
    ("PivotCold", "Pivoting", "Switching vda to /"),
    FORWARD[-1],
)
WAYS: list[Any] = [
    pytest.param(FORWARD, {"cutover": {"policy": "Automatic"}}, "Succeeded", id="forward"),
    pytest.param(BACK, {"cancel": True}, "Cancelled", id="back"),
    pytest.param(COLD, {"cutover": {"policy": "Automatic"}}, "Succeeded", id="off"),
]


def told(migration: Migration, phase: str, words: str) -> datetime | None:
    """Since when the migration says that it does this in that phase, or None."""
    status = migration.status()
    messages = [found["message"] for found in status.get("conditions", []) if found["type"] == "Succeeded"]
    if status.get("phase") != phase or not messages or not messages[0].startswith(words):
        return None
    found = re.search(r" since (\S+Z)(: .*)?\.$", messages[0])
    assert found is not None, messages
    return datetime.fromisoformat(found[1])


def state(machine: Machine, stack: Stack) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """What the VM and the storage domains have."""
    return machine.chain(), {name: domain.files() for name, domain in stack.domains.items()}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("step", "is_off"), [(step, is_off) for is_off in (False, True) for step, _, _ in (COLD[:4] if is_off else BEFORE)]
)
def test_a_deadline_ends_it_in_every_state_before_the_pivot(
    stack: Stack, holds: Holds, machines: Callable[..., Machine], step: str, *, is_off: bool
) -> None:
    machine = machines("file-a", chain=2, start=not is_off)
    before = state(machine, stack)
    holds.arm(f"{step}.before")
    migration = stack.migrate(machine, "loop-b", cutover={"policy": "Manual"}, activeDeadlineSeconds=10)
    wait_until(lambda: holds.is_reached(f"{step}.before"), "it is there", seconds=60)
    late = datetime.fromisoformat(migration.status()["startTime"]) + timedelta(seconds=10)
    wait_until(lambda: datetime.now(UTC) > late, "the deadline has passed")
    holds.release_one(f"{step}.before")

    status = migration.wait_for_phase("Failed")

    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert state(machine, stack) == before
    if is_off:
        stack.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.parametrize(("steps", "ends_by", "end"), first_by_day(WAYS))
def test_each_step_says_what_it_does_and_since_when(
    stack: Stack,
    holds: Holds,
    machines: Callable[..., Machine],
    steps: tuple[tuple[str, str, str], ...],
    ends_by: dict[str, Any],
    end: str,
) -> None:
    machine = machines("file-a", chain=2, start=steps is not COLD)
    for step, _, _ in steps:
        holds.arm(f"{step}.before")
    began_at = datetime.now(UTC) - timedelta(seconds=1)
    migration = stack.migrate(machine, "loop-b", cutover={"policy": "Manual"})
    for step, phase, words in steps:
        moment = f"{step}.before"
        wait_until(partial(holds.is_reached, moment), f"it is at {moment}", seconds=60)
        since = wait_until(partial(told, migration, phase, words), f"it says so at {moment}")
        assert began_at <= since <= datetime.now(UTC)
        if step == "AwaitCutover":
            migration.patch(ends_by)
        holds.release_one(moment)
    migration.wait_for_phase(end)
    if steps is COLD:
        stack.host.virsh("start", machine.name, "--paused")
    machine.verify()
