"""What the agent takes of its node: memory and processor time, with many VMs at rest and with many moves at once."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import moves
from bench.figures import Figure
from bench.guests import empty
from bench.plan import MEBIBYTE, Plan
from bench.stage import MIGRATIONS_AT_ONCE, Stage, running_stage
from tests.integration.migrations.machines import Machine, make_machine, remove_machine

GROUP = "agent"
# Each QEMU's native AIO takes 1024 of 65536 requests, so that no more than 63 VMs start; hosts of many set it higher.
_MOST_REQUESTS = Path("/proc/sys/fs/aio-max-nr")
_REQUESTS_ENOUGH = 2**20
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.2
_STRETCHES = 3


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures as soon as each is complete."""
    with _many_requests(), running_stage(plan.thin) as stage, ExitStack() as ending:
        ending.callback(empty, stage)
        pid = stage.stack.agent.pid
        machines: list[Machine] = []
        for _ in range(plan.idle_machines):
            machine = make_machine(stage.stack.host, stage.stack.domains["loop-a"])
            ending.callback(remove_machine, machine)
            machines.append(machine)
        for machine in machines:
            moves.await_known(stage, machine, "loop-a")
        at_rest = [_watch(pid, _for_seconds(plan.idle_seconds / _STRETCHES)) for _ in range(_STRETCHES)]
        what = f"{plan.idle_machines} paused VMs, each with a thin volume"
        yield Figure(GROUP, f"Processor, {what}", "%", tuple(cpu for cpu, _ in at_rest))
        yield Figure(GROUP, f"RSS, {what}", "MiB", tuple(rss for _, rss in at_rest))
        at_work = [_move_many(stage, machines[:MIGRATIONS_AT_ONCE], to, pid) for to in ("loop-b", "loop-a", "loop-b")]
        what = f"{MIGRATIONS_AT_ONCE} migrations at once beside them"
        yield Figure(GROUP, f"Processor, {what}", "%", tuple(cpu for cpu, _ in at_work))
        yield Figure(GROUP, f"Greatest RSS, {what}", "MiB", tuple(rss for _, rss in at_work))


@contextmanager
def _many_requests() -> Iterator[None]:
    before = _MOST_REQUESTS.read_text()
    if int(before) < _REQUESTS_ENOUGH:
        _MOST_REQUESTS.write_text(str(_REQUESTS_ENOUGH))
    try:
        yield
    finally:
        _MOST_REQUESTS.write_text(before)


def _move_many(stage: Stage, machines: list[Machine], to: str, pid: int) -> tuple[float, float]:
    begun = [moves.begin(stage, machine, to, strategy="Snapshot") for machine in machines]
    found = _watch(pid, lambda: all(migration.phase() == "Succeeded" for migration in begun))
    for machine in machines:
        moves.await_known(stage, machine, to)
    return found


def _watch(pid: int, is_over: Callable[[], bool]) -> tuple[float, float]:
    """Return how much of one processor the process took, in percent, and its greatest RSS in MiB."""
    started, ticks, greatest = time.monotonic(), _ticks(pid), 0
    while not is_over():
        greatest = max(greatest, _rss_bytes(pid))
        time.sleep(_LOOK_SECONDS)
    seconds = time.monotonic() - started
    return 100 * (_ticks(pid) - ticks) / _TICKS / seconds, greatest / MEBIBYTE


def _for_seconds(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def _ticks(pid: int) -> int:
    """Its user and system time and that of the programs it ran, fields 14 to 17 of proc_pid_stat(5)."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])


def _rss_bytes(pid: int) -> int:
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
