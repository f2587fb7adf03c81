"""Measure what the agent uses for 8 migrations at once: while they replicate, and for all of each one."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from bench import moves, processor
from bench.figures import Compared, Figure, Goal
from bench.plan import Plan
from bench.processor import Taken
from bench.stage import Stage
from testbed.processes import TestbedError
from testbed.programs import Program
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Migration
from tests.waiting import wait_until

_SLOW = "64Ki"
"""The least bandwidth there is: the disks, which hold 5 MiB, replicate for longer than any window."""
_FAST = "1Gi"
_SECONDS = 120
_THIRTY_PERCENT = Goal(Compared.OURS, 30)


@dataclass(frozen=True)
class _Measured:
    """The processor time of one agent, for each round in which it moved all disks."""

    replicating: list[Taken] = field(default_factory=list)
    whole: list[Taken] = field(default_factory=list)


def measure(group: str, stage: Stage, plan: Plan, machines: list[Machine]) -> Iterator[Figure]:
    """Yield the figures of the group. The machines' disks are on loop-a, and are there again at the end.

    The previous design's agent stands beside in none: it does not know the names that the API has today.
    """
    ours = _Measured()
    for _ in range(plan.rounds):
        _move_there_and_back(stage, plan, machines, stage.stack.agent, ours)
    count = len(machines)
    beside = f"beside {plan.machines - plan.writers} VMs"

    def figure(name: str, unit: str, of: Callable[[_Measured], Iterator[float]], goal: Goal | None = None) -> Figure:
        return Figure(group, name, unit, tuple(of(ours)), goal=goal)

    yield figure(
        f"Processor while {count} migrations replicate, {beside}",
        "%",
        lambda side: (taken.percents[0] for taken in side.replicating),
        _THIRTY_PERCENT,
    )
    yield figure(
        f"Processor from begin to end of {count} migrations at once, of 128 MiB each, {beside}",
        "%",
        lambda side: (taken.percents[0] for taken in side.whole),
    )
    yield figure(
        f"Processor time of each of these {count}, the agent's own",
        "s",
        lambda side: (taken.spent[0].own / count for taken in side.whole),
    )
    yield figure(
        f"Processor time of each of these {count}, of the programs that the agent ran",
        "s",
        lambda side: (taken.spent[0].programs / count for taken in side.whole),
    )
    yield figure(
        f"Greatest RSS, {count} migrations at once, {beside}",
        "MiB",
        lambda side: (taken.greatest_rss for taken in side.whole),
    )


def _move_there_and_back(
    stage: Stage, plan: Plan, machines: list[Machine], agent: Program, measured: _Measured
) -> None:
    """Move the disks twice each way."""
    for to in ("loop-b", "loop-a"):
        begun = [moves.begin(stage, machine, to, strategy="Snapshot") for machine in machines]
        measured.whole.append(processor.watch((agent.pid,), _in_time(partial(_all_are, begun, "Succeeded"))))
        _await_known(stage, machines, to)
    for to in ("loop-b", "loop-a"):
        begun = [moves.begin(stage, machine, to, strategy="Direct", bandwidth=_SLOW) for machine in machines]
        wait_until(partial(_all_are, begun, "Replicating"), "all replicate", seconds=_SECONDS)
        measured.replicating.append(processor.watch((agent.pid,), processor.for_seconds(plan.window_seconds)))
        if not _all_are(begun, "Replicating"):
            raise TestbedError("A migration had replicated all of its disk before the processor was measured.")
        for migration in begun:
            migration.patch({"bandwidth": _FAST})
        wait_until(partial(_all_are, begun, "Succeeded"), "all have succeeded", seconds=_SECONDS)
        _await_known(stage, machines, to)


def _in_time(is_over: Callable[[], bool]) -> Callable[[], bool]:
    """Return the same question, which raises TestbedError when it was not answered with yes in time."""
    until = time.monotonic() + _SECONDS

    def ask() -> bool:
        if time.monotonic() > until:
            raise TestbedError(f"Not all migrations have succeeded within {_SECONDS} s.")
        return is_over()

    return ask


def _all_are(migrations: list[Migration], phase: str) -> bool:
    return all(migration.phase() == phase for migration in migrations)


def _await_known(stage: Stage, machines: list[Machine], domain: str) -> None:
    for machine in machines:
        moves.await_known(stage, machine, domain)
