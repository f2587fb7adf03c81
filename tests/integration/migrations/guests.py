"""VMs with a real guest that writes without pause, on the disk of a storage domain."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import run

from testbed.guest.domain import Disk, Writer
from testbed.guest.records import Layout
from testbed.guest.running import Guest, running_guest, verify_volume
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import Stack

_DISK_BYTES = 512 * MEBIBYTE
_RECORD_BYTES = 64 * 1024


@contextmanager
def writing_guest(
    stack: Stack, domain: str | Domain, scratch: Path, *, volume_bytes: int, records_per_second: int
) -> Iterator[tuple[Guest, Machine]]:
    """A guest whose disk is one qcow2 volume of the storage domain; it has written when the block begins."""
    place = stack.domains[domain] if isinstance(domain, str) else domain
    name = f"guest-{uuid.uuid4().hex[:8]}"
    path = place.make_volume(name, volume_bytes)
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(_DISK_BYTES)], check=True)
    layout = Layout(seed=7, record_bytes=_RECORD_BYTES, span_bytes=_DISK_BYTES)
    writer = Writer(layout, records_per_second=records_per_second)
    disk = Disk(path, "qcow2", "block" if place.kind == "loop" else "file")
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
