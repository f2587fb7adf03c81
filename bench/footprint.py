"""Measure what the agent and libvirtd use: with 100 VMs of which 20 write, and with 8 migrations at once."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

from bench import fleet, migrating, processor
from bench.figures import Compared, Figure, Goal
from bench.guests import empty
from bench.plan import Plan
from bench.previous import BESIDE, await_ready, previous_design, running_instead, without_agent
from bench.stage import MIGRATIONS_AT_ONCE, Stage, running_stage
from bench.statistics import spread
from testbed.programs import Program

GROUP = "agent"
_SETTLE_SECONDS = 15
"""How long an agent that was just started is left alone: it reads all VMs, and removes what its predecessor left."""
_CALLS_SECONDS = 2
_CALLS_WINDOWS = 4
_ONE_PERCENT = Goal(Compared.OURS, 1)
_TWENTY_CALLS = Goal(Compared.OURS, 20)


@dataclass(frozen=True)
class Footprint:
    """The figures of one window: processors in percent, memory in MiB, and calls to libvirtd in 2 s."""

    agent: float
    daemon: float
    rss: float
    mean_calls: float
    usual_calls: float


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures as soon as each is complete."""
    with fleet.many_requests(), running_stage(plan.thin) as stage, ExitStack() as ending:
        previous = ending.enter_context(previous_design(stage))
        ending.callback(empty, stage)
        machines = ending.enter_context(fleet.at_rest(stage, plan.machines - plan.writers))
        for load in (fleet.WITHIN, fleet.GROWING):
            with fleet.writing(stage, plan.writers, load, plan.thin.chunk):
                yield from _with_guests(stage, plan, previous, load.name)
        yield from migrating.measure(GROUP, stage, plan, machines[:MIGRATIONS_AT_ONCE])


def _with_guests(stage: Stage, plan: Plan, previous: Program, load: str) -> Iterator[Figure]:
    ours: list[Footprint] = []
    others: list[Footprint] = []
    without: list[float] = []
    for _ in range(plan.rounds):
        ours.append(_footprint(stage, plan, stage.stack.agent, nullcontext()))
        others.append(_footprint(stage, plan, previous, running_instead(stage, previous)))
        with without_agent(stage):
            window = processor.for_seconds(plan.window_seconds / 2)
            without += processor.watch((stage.stack.host.daemon_pid,), window).percents
        await_ready(stage)
    what = f"{plan.machines} VMs of which {plan.writers} write {load}"

    def figure(name: str, unit: str, of: Callable[[Footprint], float], goal: Goal | None = None) -> Figure:
        return Figure(GROUP, f"{name}, {what}", unit, _all(ours, of), _all(others, of), beside=BESIDE, goal=goal)

    yield figure("Processor", "%", lambda each: each.agent, _ONE_PERCENT)
    yield figure("Calls to libvirtd in 2 s", "calls", lambda each: each.usual_calls, _TWENTY_CALLS)
    yield figure("Their mean over 30 s", "calls", lambda each: each.mean_calls)
    yield figure("Processor of libvirtd", "%", lambda each: each.daemon)
    yield Figure(GROUP, f"Processor of libvirtd with no agent, {what}", "%", tuple(without))
    yield figure("RSS", "MiB", lambda each: each.rss)


def _footprint(stage: Stage, plan: Plan, agent: Program, running: AbstractContextManager[None]) -> Footprint:
    with running:
        time.sleep(_SETTLE_SECONDS)
        calls = stage.probes.calls().total()
        pids = (agent.pid, stage.stack.host.daemon_pid)
        taken = processor.watch(pids, processor.for_seconds(plan.window_seconds))
        mean = (stage.probes.calls().total() - calls) * _CALLS_SECONDS / plan.window_seconds
        # To ask for the metrics takes time of the agent's own: that is not in the window above.
        usual = [stage.probes.calls_in_two_seconds().total() for _ in range(_CALLS_WINDOWS)]
        own, daemon = taken.percents
        return Footprint(own, daemon, taken.greatest_rss, mean, spread(usual).median)


def _all(footprints: Sequence[Footprint], of: Callable[[Footprint], float]) -> tuple[float, ...]:
    return tuple(of(each) for each in footprints)
