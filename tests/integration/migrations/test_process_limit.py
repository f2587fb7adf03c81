"""An agent that may run few qemu-img processes at once: migrations wait and say so, and can be ended meanwhile."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from diskmigration.agent.storage.process_limit import LOWEST_LIMIT
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]

SLOWEST = "64Ki"
STUCK_SECONDS = 3


def wait_message(migration: Migration) -> str:
    """What it says while it waits for other qemu-img processes, or nothing."""
    message = str(migration.condition("Succeeded")["message"]) if migration.status().get("conditions") else ""
    return message if "--qemu-img-processes" in message else ""


def moment(message: str) -> datetime:
    """The time that a message tells."""
    return datetime.fromisoformat(message.partition("since ")[2].removesuffix("."))


@pytest.mark.nightly
@pytest.mark.parametrize("is_off", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["running", "shut off"])
def test_migrations_wait_their_turn_and_say_so(stack: Stack, machines: Machines, *, is_off: bool) -> None:
    first, second, third = machines("file-a", chain=2), *(machines("file-a", chain=2, start=not is_off) for _ in "23")
    with stack.agent.running_with(f"--qemu-img-processes={LOWEST_LIMIT}"):
        stack.make_ready(stack.domains)
        copying = stack.migrate(first, "file-b", bandwidth=SLOWEST)
        wait_until(lambda: copying.status().get("progress", {}).get("totalBytes"), "the first copies")
        copying.wait_for_phase("CopyingChain")

        given_up = stack.migrate(second, "file-b")
        waiting = stack.migrate(third, "loop-b", progressTimeoutSeconds=STUCK_SECONDS)
        began_at = datetime.now(UTC)
        for migration in (given_up, waiting):
            message = wait_until(partial(wait_message, migration), "it says that it waits")
            assert f"at most {LOWEST_LIMIT} qemu-img processes" in message
            assert abs(moment(message) - began_at) < timedelta(seconds=60)
            assert migration.phase() in ("CopyingChain", "Replicating")

        given_up.patch({"cancel": True})
        given_up.wait_for_phase("Cancelled")

        # To wait is not to be stuck.
        late = moment(wait_message(waiting)) + timedelta(seconds=2 * STUCK_SECONDS)
        wait_until(lambda: datetime.now(UTC) > late, "the time-out for a copy that is stuck has passed")
        assert wait_message(waiting)

        copying.patch({"cancel": True})
        copying.wait_for_phase("Cancelled")
        waiting.succeed()
        assert third.chain()[0][0].startswith(str(stack.domains["loop-b"].root))
    if is_off:
        for machine in (second, third):
            machine.host.virsh("start", machine.name, "--paused")
    for machine in (first, second, third):
        machine.verify()
    stack.make_ready(stack.domains)
