"""Guests whose disks move: one that hardly writes, and one that writes all the time."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.disks import make_chain
from bench.moves import Subject
from bench.plan import MEBIBYTE
from bench.stage import Stage
from testbed.cluster import loops
from testbed.guest.domain import Disk, Writer
from testbed.guest.records import Layout
from testbed.guest.running import running_guest
from tests.integration.migrations.machines import Machine


@dataclass(frozen=True)
class Load:
    """What a guest writes: records of so many bytes, so many in a second."""

    name: str
    record_bytes: int
    records_per_second: int


IDLE = Load("idle", 4096, 1)
BUSY = Load("busy", 256 * 1024, 64)
_SPAN_BYTES = 128 * MEBIBYTE


@contextmanager
def guest_with_data(stage: Stage, load: Load, *, capacity_bytes: int, chain: int = 1) -> Iterator[Subject]:
    """Run a guest on file-a, its disk full of random data; at the end it and its volumes go."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    stack = stage.stack
    place = stack.domains["file-a"]
    volumes = make_chain(place, name, capacity_bytes=capacity_bytes, length=chain, scratch=stage.directory)
    layout = Layout(seed=7, record_bytes=load.record_bytes, span_bytes=_SPAN_BYTES)
    writer = Writer(layout, records_per_second=load.records_per_second)
    with running_guest(stack.host, name, [Disk(volumes[-1])], writer=writer, directory=stage.directory) as guest:
        guest.console.wait_for_record(1, timeout_seconds=120)
        identity = stack.host.virsh("domuuid", name).strip()
        machine = Machine(stack.host, name, identity, volumes)
        yield Subject(stage, guest, machine, capacity_bytes, ["file-a"])
    empty(stage)


def empty(stage: Stage) -> None:
    """Remove every volume, once no domain uses any."""
    for domain in stage.stack.domains.values():
        loops.detach(domain.root)
        for entry in domain.root.rglob("*"):
            if not entry.is_dir():
                entry.unlink()
