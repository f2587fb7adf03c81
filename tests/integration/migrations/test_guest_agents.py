"""VMs with a guest agent: their moves ask it for nothing, whatever it would answer."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.migrations.guest_agent import CHANNEL_IS_OPEN, FREEZE, Answer, GuestAgent, channel
from tests.integration.migrations.machines import Machine, add_disk
from tests.integration.migrations.monitor import monitor_says
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

WithAgent = Callable[..., tuple[Machine, GuestAgent]]


@pytest.fixture
def with_agent(stack: Stack, machines: Callable[..., Machine], scratch: Path) -> Iterator[WithAgent]:
    """Make a running VM with a guest agent that libvirt knows of; with `second_disk` it has vdb too."""
    with ExitStack() as ending:

        def make(freeze: Answer, *, second_disk: bool = False) -> tuple[Machine, GuestAgent]:
            agent = GuestAgent(scratch / "agent.sock", freeze)
            ending.callback(agent.close)
            machine = machines("file-a", devices=channel(scratch / "agent.sock"), start=False)
            if second_disk:
                add_disk(machine, stack.domains["file-a"])
            stack.host.virsh("start", machine.uuid, "--paused")
            ending.enter_context(monitor_says(stack.host, machine.name, CHANNEL_IS_OPEN))
            # Its monitor goes at the end of the block, and QEMU with it.
            ending.callback(stack.host.virsh, "destroy", machine.uuid)
            wait_until(lambda: "state='connected'" in machine.xml(), "libvirt knows of the agent")
            stack.host.virsh("resume", machine.uuid)
            return machine, agent

        yield make


def frozen() -> dict[str, Any]:
    return {"return": 1}


def never_answered() -> None:
    return None


def refusal(kind: str, text: str) -> Callable[[], dict[str, Any]]:
    return lambda: {"error": {"class": kind, "desc": text}}


FORBIDDEN = refusal("GenericError", "Command guest-fsfreeze-freeze has been disabled")
UNKNOWN = refusal("CommandNotFound", "The command guest-fsfreeze-freeze has not been found")
FAILED = refusal("GenericError", "failed to freeze /srv: Input/output error")


def test_a_paused_vm_with_a_guest_agent_moves(stack: Stack, with_agent: WithAgent) -> None:
    machine, agent = with_agent(frozen)
    stack.host.virsh("suspend", machine.uuid)

    status = stack.migrate(machine, "file-b").succeed()

    assert status["attempts"] == 1
    assert machine.state() == "paused"
    assert FREEZE not in agent.asked
    machine.verify()


@pytest.mark.parametrize(
    "freeze",
    [
        pytest.param(never_answered, id="never-answered"),
        pytest.param(FORBIDDEN, id="forbidden", marks=pytest.mark.nightly),
        pytest.param(UNKNOWN, id="unknown-command", marks=pytest.mark.nightly),
        pytest.param(FAILED, id="a-mount-fails", marks=pytest.mark.nightly),
    ],
)
def test_a_vm_moves_whose_guest_agent_does_not_freeze(stack: Stack, with_agent: WithAgent, freeze: Answer) -> None:
    machine, agent = with_agent(freeze)

    status = stack.migrate(machine, "file-b").succeed()

    assert status["attempts"] == 1
    assert machine.state() == "running"
    assert FREEZE not in agent.asked


@pytest.mark.nightly
def test_a_vm_whose_guest_agent_never_answers_can_be_cancelled(stack: Stack, with_agent: WithAgent) -> None:
    machine, _ = with_agent(never_answered)
    chain = machine.chain()
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")

    migration.patch({"cancel": True})

    migration.wait_for_phase("Cancelled")
    assert machine.chain() == chain


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
def test_a_freeze_of_somebody_else_that_is_never_answered_holds_none_of_the_vms_disks(
    stack: Stack, with_agent: WithAgent, strategy: str
) -> None:
    machine, agent = with_agent(never_answered, second_disk=True)
    freezing = subprocess.Popen(["virsh", "--connect", stack.host.uri, "domfsfreeze", machine.uuid])
    try:
        wait_until(lambda: FREEZE in agent.asked, "the agent was asked to freeze")

        moves = [stack.migrate(machine, "file-b", disk=disk, strategy=strategy) for disk in ("vda", "vdb")]

        assert [move.succeed()["attempts"] for move in moves] == [1, 1]
        assert freezing.poll() is None
    finally:
        freezing.kill()
        freezing.wait()
