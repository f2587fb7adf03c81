"""A mount that hangs costs its own disks: others are extended and moved, the agent lives, and all goes on after it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import exports
from testbed.exports import HANG, Faults
from tests.integration.agent.probes import Probes
from tests.integration.migrations.growth import has_grown_in_time
from tests.integration.migrations.hangs import copied_bytes, synchronized
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine, empty
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]


@dataclass(frozen=True)
class Mount:
    """A storage domain of kind file on a mount whose server can be told to answer nothing about any file."""

    domain: Domain
    faults: Faults

    def hangs(self) -> AbstractContextManager[None]:
        """Have it hang for the time of the block."""
        return self.faults.answering("getattr", HANG)

    def reason(self, stack: Stack) -> str:
        """Why the node says that it is not ready, or nothing."""
        found = stack.host_object().get("status", {}).get("storageDomains", [])
        return next((known.get("reason", "") for known in found if known["name"] == self.domain.name), "")


@pytest.fixture
def mount(stack: Stack, exports_directory: Path) -> Iterator[Mount]:
    """Asked for before `machines`, whose VMs have to be gone at its end."""
    name = f"mount-{uuid.uuid4().hex[:8]}"
    source, at = exports_directory / f"{name}.source", exports_directory / name
    for directory in (source, at):
        directory.mkdir()
    source.chmod(0o777)
    domain = Domain(name, "file", at)
    with exports.faulty(source, at) as faults:
        try:
            stack.make_ready({name: domain})
            yield Mount(domain, faults)
        finally:
            stack.control_plane.kubectl("delete", "storagedomain", name)
            empty(domain)


def test_a_mount_that_does_not_answer_costs_its_own_disks_alone(
    stack: Stack, mount: Mount, machines: Machines, probes: Probes
) -> None:
    hanging = machines(mount.domain)
    early, late = (machines("loop-a", volume_bytes=16 * MEBIBYTE) for _ in range(2))
    moving, off = machines("file-a"), machines("file-a", start=False)
    held = synchronized(stack, hanging)
    held.wait_for_phase("Synchronized")
    copied = copied_bytes(held)
    with mount.hangs():
        has_grown_in_time(early, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
        moves = [stack.migrate(machine, "file-b") for machine in (moving, off)]
        for move in moves:
            move.succeed(seconds=120)
        wait_until(lambda: "has not answered since" in mount.reason(stack), "the node says so", seconds=60)
        has_grown_in_time(late, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
        assert probes.is_live(), probes.ask("livez")
        assert probes.is_ready(), probes.ask("readyz")
    wait_until(lambda: not mount.reason(stack), "it answers again", seconds=60)
    held.patch({"cutover": {"policy": "Automatic"}})
    assert held.succeed(seconds=120)["attempts"] == 1
    assert copied_bytes(held) >= copied
    for machine in (hanging, early, late, moving):
        machine.verify()


@pytest.mark.nightly
def test_an_agent_that_starts_while_a_mount_hangs_serves_the_others(
    stack: Stack, mount: Mount, machines: Machines, probes: Probes
) -> None:
    hanging, other = machines(mount.domain), machines("loop-a", volume_bytes=16 * MEBIBYTE)
    moving = machines("file-a")
    stack.agent.kill()
    with mount.hangs():
        stack.agent.start()
        wait_until(probes.is_ready, "the agent is ready", seconds=60)
        has_grown_in_time(other, start=20 * MEBIBYTE, length=30 * MEBIBYTE)
        stack.migrate(moving, "file-b").succeed(seconds=120)
        wait_until(lambda: "has not answered since" in mount.reason(stack), "the node says so", seconds=60)
        assert probes.is_live(), probes.ask("livez")
    wait_until(lambda: not mount.reason(stack), "it answers again", seconds=60)
    stack.migrate(hanging, "file-b").succeed(seconds=120)
    for machine in (hanging, other, moving):
        machine.verify()
