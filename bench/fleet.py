"""The VMs of a busy node: most are at rest, and some have a guest that writes."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import moves
from bench.plan import MEBIBYTE
from bench.stage import Stage
from testbed import processes
from testbed.guest.domain import Disk, Writer
from testbed.guest.records import Layout
from testbed.guest.running import running_guest
from tests.integration.migrations.machines import Machine, make_machine, remove_machine

# Each QEMU's native AIO takes 1024 of 65536 requests, so that no more than 63 VMs start; hosts of many set it higher.
_MOST_REQUESTS = Path("/proc/sys/fs/aio-max-nr")
_REQUESTS_ENOUGH = 2**20
_BOOT_SECONDS = 600
_RECORD_BYTES = 64 * 1024
_CAPACITY_BYTES = 4096 * MEBIBYTE


@dataclass(frozen=True)
class Writing:
    """The load of each guest: records of 64 KiB, which go round within `span_bytes`."""

    name: str
    records_per_second: int
    span_bytes: int


WITHIN = Writing("256 KiB/s each, within their volumes", records_per_second=4, span_bytes=32 * MEBIBYTE)
GROWING = Writing("1 MiB/s each of new data", records_per_second=16, span_bytes=2048 * MEBIBYTE)


@contextmanager
def many_requests() -> Iterator[None]:
    """For the block the host takes the native AIO of hundreds of QEMUs."""
    before = _MOST_REQUESTS.read_text()
    if int(before) < _REQUESTS_ENOUGH:
        _MOST_REQUESTS.write_text(str(_REQUESTS_ENOUGH))
    try:
        yield
    finally:
        _MOST_REQUESTS.write_text(before)


@contextmanager
def at_rest(stage: Stage, count: int) -> Iterator[list[Machine]]:
    """Have so many VMs that are paused, each with a thin volume on loop-a."""
    with ExitStack() as ending:
        machines: list[Machine] = []
        for _ in range(count):
            machine = make_machine(stage.stack.host, stage.stack.domains["loop-a"])
            ending.callback(remove_machine, machine)
            machines.append(machine)
        for machine in machines:
            moves.await_known(stage, machine, "loop-a")
        yield machines


@contextmanager
def writing(stage: Stage, count: int, load: Writing, chunk: int) -> Iterator[None]:
    """Have so many VMs whose guests write, each to a thin volume on loop-a that begins with one chunk."""
    layout = Layout(seed=11, record_bytes=_RECORD_BYTES, span_bytes=load.span_bytes)
    writer = Writer(layout, records_per_second=load.records_per_second, plain=True)
    with ExitStack() as ending:
        guests = []
        for _ in range(count):
            name = f"writes-{uuid.uuid4().hex[:8]}"
            volume = stage.stack.domains["loop-a"].make_volume(name, chunk)
            processes.run(["qemu-img", "create", "-q", "-f", "qcow2", volume, str(_CAPACITY_BYTES)])
            disk = Disk(volume, "qcow2", "block")
            guests.append(
                ending.enter_context(
                    running_guest(stage.stack.host, name, [disk], writer=writer, directory=stage.directory)
                )
            )
        for guest in guests:
            guest.console.wait_for_record(0, timeout_seconds=_BOOT_SECONDS)
        yield
