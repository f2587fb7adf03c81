"""One trial of an extender: a guest writes new data at a steady rate to a thin disk and its mirror."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import libvirt

from bench.disks import whole_volume_bytes
from bench.events import Happened, listening
from bench.growths import delays_of
from bench.guests import empty
from bench.moves import await_known, begin
from bench.plan import MEBIBYTE, Plan
from bench.stage import Stage
from testbed import processes
from testbed.guest.domain import Disk, Writer
from testbed.guest.records import Layout
from testbed.guest.running import Guest, running_guest
from testbed.programs import Program
from tests.integration.migrations.machines import Machine
from tests.waiting import wait_until

_RECORD_BYTES = MEBIBYTE
_LOOK_SECONDS = 0.05
_BOOT_SECONDS = 60
_GROWTHS_WATCHED = 6


class Extender(StrEnum):
    """Who keeps the volumes extended; they begin with one chunk."""

    OURS = "ours"
    RIVAL = "rival"
    NOBODY = "nobody"
    """They are as large as they can get."""


@dataclass(frozen=True)
class Side:
    """Who extends the volumes, and on which storage domain the mirror is, if there is one."""

    extender: Extender
    mirror: str | None

    def __str__(self) -> str:
        """Return it as it is told while it runs."""
        return f"{self.extender}, {f'mirrored to {self.mirror}' if self.mirror else 'no mirror'}"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    `rate` is what the guest reached, in bytes a second, which may be less than it was told; 0 where it was harmed.
    """

    sustained: bool
    rate: float
    over_allocated_bytes: int
    delays: tuple[float, ...]
    """In seconds: from less than the watermark being free until the volume had grown, for each growth that was seen."""


def run(stage: Stage, plan: Plan, side: Side, rate_mebibytes: int, *, watch: bool = False) -> Outcome:
    """Run a trial at so many MiB/s, 0 being as fast as the guest can; `watch` times six growths, and ends with them."""
    name = f"writer-{uuid.uuid4().hex[:8]}"
    written = plan.written_bytes(rate_mebibytes)
    capacity = 2 * written
    size = whole_volume_bytes(capacity) if side.extender is Extender.NOBODY else plan.thin.chunk
    volume = _image(stage, "loop-a", f"{name}-0", size, capacity)
    layout = Layout(seed=9, record_bytes=_RECORD_BYTES, span_bytes=written)
    writer = Writer(layout, records_per_second=rate_mebibytes, plain=True)
    disk = Disk(volume, "qcow2", "block")
    with ExitStack() as ending:
        ending.callback(empty, stage)
        host = stage.stack.host
        guest = ending.enter_context(
            running_guest(host, name, [disk], writer=writer, directory=stage.directory, paused=True)
        )
        machine = Machine(host, name, host.virsh("domuuid", name).strip(), [volume])
        ending.enter_context(_mirrored(stage, plan, side, machine, capacity=capacity, size=size))
        happened = ending.enter_context(listening(host, name))
        delays = ending.enter_context(delays_of(host, name, plan.thin.watermark)) if watch else []
        host.virsh("resume", name)
        rate = _write_all(guest, happened, written, rate_mebibytes, is_over=lambda: len(delays) >= _GROWTHS_WATCHED)
        is_whole = side.mirror is None or "<mirror" in machine.xml()
        sustained = rate > 0 and happened.is_unharmed and is_whole
        return Outcome(sustained, rate, _free_bytes(machine), tuple(delays))


def _write_all(
    guest: Guest, happened: Happened, written_bytes: int, rate_mebibytes: int, *, is_over: Callable[[], bool]
) -> float:
    """Wait until the guest is through or harmed, or it is over; the rate that it reached, 0 when it is not through."""
    guest.console.wait_for_record(0, timeout_seconds=_BOOT_SECONDS)
    started = time.monotonic()
    last = written_bytes // _RECORD_BYTES - 1
    longest = 60 + 2 * last / (rate_mebibytes or 20)
    while guest.console.acknowledged < last:
        if not happened.is_unharmed or is_over() or time.monotonic() > started + longest:
            return 0.0
        time.sleep(_LOOK_SECONDS)
    return last * _RECORD_BYTES / (time.monotonic() - started)


@contextmanager
def _mirrored(stage: Stage, plan: Plan, side: Side, machine: Machine, *, capacity: int, size: int) -> Iterator[None]:
    """For the block there is a mirror that is in step, and whoever keeps both volumes extended."""
    if side.extender is Extender.OURS:
        await_known(stage, machine, "loop-a")
    if side.mirror is None:
        yield
        return
    if side.extender is Extender.OURS:
        migration = begin(stage, machine, side.mirror, strategy="Direct", cutover={"policy": "Manual"})
        migration.wait_for_phase("Synchronized")
        try:
            yield
        finally:
            migration.patch({"cancel": True})
            wait_until(lambda: migration.phase() in ("Cancelled", "Failed"), "the migration has ended", seconds=60)
        return
    stage.stack.agent.stop()
    try:
        made = _image(stage, side.mirror, f"{machine.name}-mirror", size, capacity)
        options = ["--format", "qcow2", "--blockdev", "--reuse-external", "--transient-job"]
        machine.host.virsh("blockcopy", machine.name, "vda", "--dest", str(made), *options)
        wait_until(lambda: "ready='yes'" in machine.xml(), "the mirror is in step")
        if side.extender is Extender.NOBODY:
            yield
            return
        rival = _rival(stage, plan)
        rival.start()
        try:
            yield
        finally:
            rival.stop()
    finally:
        stage.stack.agent.start()


def _rival(stage: Stage, plan: Plan) -> Program:
    arguments = ["bench.rival", f"--uri={stage.stack.host.uri}", f"--watermark={plan.thin.watermark}"]
    return Program(
        [*arguments, f"--chunk={plan.thin.chunk}"],
        log=stage.directory / "rival.log",
        path=[Path(__file__).resolve().parents[1]],
    )


def _image(stage: Stage, domain: str, name: str, size: int, capacity: int) -> Path:
    path = stage.stack.domains[domain].make_volume(name, size)
    processes.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(capacity)])
    return path


def _free_bytes(machine: Machine) -> int:
    """What the open volumes have past the highest byte written."""
    with machine.host.domain(machine.name) as domain:
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING
        [(_, values)] = domain.connect().domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_BLOCK, flags)
    return sum(
        values[f"block.{position}.physical"] - values[f"block.{position}.allocation"]
        for position in range(values["block.count"])
    )
