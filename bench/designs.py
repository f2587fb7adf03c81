"""Extensions by today's agent beside those by the previous design's, in turn on the same disk."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from bench import extension, trial
from bench.figures import Compared, Figure, Goal
from bench.plan import MEBIBYTE, Plan
from bench.previous import BESIDE, previous_design, running_instead
from bench.stage import running_stage
from bench.trial import Extender, Side

GROUP = "designs"
_AGENT = Side(Extender.OURS, "loop-b")
_RAW = Side(Extender.NOBODY, None)
# Two sides that are the same differ by this much here from run to run.
_NO_SLOWER = Goal(Compared.RATIO, 1.1)
_AS_FAST = Goal(Compared.RATIO, 0.9, at_least=True)


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures as soon as each is complete."""
    with running_stage(plan.thin) as stage, previous_design(stage) as previous:

        def sides(turn: int) -> list[tuple[int, AbstractContextManager[None]]]:
            ours: tuple[int, AbstractContextManager[None]] = (0, nullcontext())
            other: tuple[int, AbstractContextManager[None]] = (1, running_instead(stage, previous))
            # The order changes, so that neither is always the first.
            return [ours, other] if turn % 2 == 0 else [other, ours]

        calm = plan.thin.watermark // MEBIBYTE // 3
        delays: tuple[list[float], list[float]] = ([], [])
        for turn in range(2 * plan.rounds):
            for side, running in sides(turn):
                with running:
                    delays[side].extend(trial.run(stage, plan, _AGENT, calm, watch=True).delays)
        name = f"Threshold passed → volume grown, at {calm} MiB/s"
        yield _figure(name, "s", delays, _NO_SLOWER)
        rates: tuple[list[float], list[float]] = ([], [])
        for turn in range(plan.searches):
            highest = max(1, int(trial.run(stage, plan, _RAW, 0).rate / MEBIBYTE))
            for side, running in sides(turn):
                with running:
                    found = extension.search(stage, plan, _AGENT, start=highest, highest=highest)
                rates[side].extend(extension.reached([found]))
        yield _figure("Highest rate with no pause and a live mirror", "MiB/s", rates, _AS_FAST)


def _figure(name: str, unit: str, sides: tuple[list[float], list[float]], goal: Goal) -> Figure:
    count = min(map(len, sides))
    ours, others = (tuple(side[:count]) for side in sides)
    return Figure(GROUP, name, unit, ours, others, BESIDE, goal)
