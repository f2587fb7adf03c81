"""VMs with a guest agent: their moves ask it for nothing, whatever it would answer."""

import itertools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import has_grown_in_time
from tests.integration.migrations.guest_agent import CHANNEL_IS_OPEN, FREEZE, Answer, GuestAgent, channel
from tests.integration.migrations.hangs import silent
from tests.integration.migrations.machines import MEBIBYTE, Machine, add_disk
from tests.integration.migrations.monitor import monitor_says
from tests.integration.migrations.stack import Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

WithAgent = Callable[..., tuple[Machine, GuestAgent]]


@pytest.fixture
def with_agent(stack: Stack, machines: Callable[..., Machine], scratch: Path) -> Iterator[WithAgent]:
    """Make a running VM with a guest agent that libvirt knows of; with `second_disk` it has vdb too."""
    numbers = itertools.count()
    with ExitStack() as ending:

        def make(freeze: Answer, *, second_disk: bool = False) -> tuple[Machine, GuestAgent]:
            socket = scratch / f"{next(numbers)}.sock"
            agent = GuestAgent(socket, freeze)
            ending.callback(agent.close)
            machine = machines("file-a", devices=channel(socket), start=False)
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


@contextmanager
def freezing(stack: Stack, machine: Machine, agent: GuestAgent) -> Iterator[None]:
    """Have somebody else freeze the VM's file systems, which its agent does not answer before the end of the block."""
    command = ["virsh", "--connect", stack.host.uri, "domfsfreeze", machine.uuid]
    tool = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: FREEZE in agent.asked, "the agent was asked to freeze")
        yield
        assert tool.poll() is None
    finally:
        tool.kill()
        tool.wait()


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
def test_a_freeze_of_somebody_else_that_is_never_answered_holds_none_of_the_vms_disks(
    stack: Stack, with_agent: WithAgent, strategy: str
) -> None:
    machine, agent = with_agent(never_answered, second_disk=True)
    with freezing(stack, machine, agent):
        moves = [stack.migrate(machine, "file-b", disk=disk, strategy=strategy) for disk in ("vda", "vdb")]
        assert [move.succeed()["attempts"] for move in moves] == [1, 1]


@pytest.mark.parametrize("count", first_by_day([1, 8]))
def test_guest_agents_that_never_answer_cost_no_other_vm(
    stack: Stack, with_agent: WithAgent, machines: Callable[..., Machine], probes: Probes, count: int
) -> None:
    hanging = [with_agent(never_answered) for _ in range(count)]
    other, moving = machines("loop-a", volume_bytes=16 * MEBIBYTE), machines("file-a")
    with ExitStack() as freezes:
        for machine, agent in hanging:
            freezes.enter_context(freezing(stack, machine, agent))

        has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
        moves = [stack.migrate(machine, "file-b") for machine in (moving, *(machine for machine, _ in hanging))]
        assert {move.succeed(seconds=120)["attempts"] for move in moves} == {1}

        # Their QEMUs answer, and nothing else is asked.
        assert not silent(stack)
        assert probes.is_live(), probes.ask("livez")
        assert probes.is_ready(), probes.ask("readyz")
    for machine in (other, moving):
        machine.verify()
