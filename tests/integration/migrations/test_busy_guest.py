"""A real guest that writes without pause: nothing that it was told is written is ever lost."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import run

import pytest

from testbed.guest.domain import Disk, Writer
from testbed.guest.records import Layout
from testbed.guest.running import Guest, running_guest, verify_volume
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import NODE, Stack, wait_until

_DISK_BYTES = 512 * MEBIBYTE
_RECORD_BYTES = 64 * 1024


@contextmanager
def writing_guest(
    stack: Stack, domain_name: str, scratch: Path, *, volume_bytes: int, records_per_second: int
) -> Iterator[tuple[Guest, Machine]]:
    """A guest whose disk is one qcow2 volume of the storage domain; it has written when the block begins."""
    domain = stack.domains[domain_name]
    name = f"guest-{uuid.uuid4().hex[:8]}"
    path = domain.make_volume(name, volume_bytes)
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(_DISK_BYTES)], check=True)
    layout = Layout(seed=7, record_bytes=_RECORD_BYTES, span_bytes=_DISK_BYTES)
    writer = Writer(layout, records_per_second=records_per_second)
    disk = Disk(path, "qcow2", "block" if domain.kind == "loop" else "file")
    with running_guest(stack.host, name, [disk], writer=writer, directory=scratch) as guest:
        guest.console.wait_for_record(10)
        identity = stack.host.virsh("domuuid", name).strip()
        yield guest, Machine(stack.host, name, identity, [path])


def assert_nothing_lost(guest: Guest, machine: Machine, scratch: Path) -> None:
    """Stops the guest and checks every record that it acknowledged."""
    active, image_format = machine.chain()[0]
    guest.power_off()
    report = verify_volume(Path(active), image_format, guest.writer, guest.console.acknowledged, scratch)
    assert report.ok, report


@pytest.mark.usefixtures("machines")
def test_a_disk_moves_there_and_back_under_a_writing_guest(stack: Stack, scratch: Path) -> None:
    with writing_guest(stack, "file-a", scratch, volume_bytes=0, records_per_second=100) as (guest, machine):
        for destination in ("loop-b", "file-b", "loop-a", "loop-b"):
            before = guest.console.acknowledged
            stack.migrate(machine, destination).succeed(seconds=120)
            guest.console.wait_for_record(before + 1)
            assert machine.state() == "running"
        assert_nothing_lost(guest, machine, scratch)


@pytest.mark.usefixtures("machines")
def test_a_guest_that_met_a_full_volume_is_extended_and_resumed(stack: Stack, scratch: Path) -> None:
    with writing_guest(stack, "loop-a", scratch, volume_bytes=96 * MEBIBYTE, records_per_second=0) as (guest, machine):
        stack.agent.stop()
        try:
            wait_until(lambda: machine.state() == "paused", "the guest met the end of its volume", seconds=120)
            reason = stack.host.virsh("domstate", "--reason", machine.name)
            assert "I/O error" in reason
        finally:
            stack.agent.start()
        wait_until(lambda: machine.state() == "running", "the guest goes on", seconds=60)
        guest.console.wait_for_more(200, timeout_seconds=120)
        wait_until(lambda: NODE in stack.control_plane.kubectl("get", "hypervisors"), "the agent is back")
        assert_nothing_lost(guest, machine, scratch)


@pytest.mark.usefixtures("machines")
def test_a_mirror_that_lost_the_race_is_made_again_and_the_guest_does_not_notice(stack: Stack, scratch: Path) -> None:
    with writing_guest(stack, "file-a", scratch, volume_bytes=0, records_per_second=100) as (guest, machine):
        migration = stack.migrate(machine, "loop-b", cutover={"policy": "Manual"}, backoffLimit=1)
        migration.wait_for_phase("Synchronized")
        with stack.agent.frozen():
            wait_until(lambda: "<mirror" not in machine.xml(), "the mirror ran full and ended", seconds=120)
            assert machine.state() == "running", "nobody is there who could have resumed it"
        migration.patch({"cutover": {"policy": "Automatic"}})
        status = migration.succeed(seconds=120)
        assert status["attempts"] == 2
        guest.console.wait_for_more(50)
        assert_nothing_lost(guest, machine, scratch)
