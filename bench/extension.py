"""How fast a guest may write to thin volumes before one is full: ours, the classical design, and the bare disk."""

from collections.abc import Iterator

from bench import trial
from bench.figures import Compared, Figure, Goal
from bench.plan import MEBIBYTE, Plan
from bench.search import highest_passing
from bench.stage import Stage, running_stage
from bench.trial import Outcome, Side

GROUP = "extension"
_RIVAL = "classical design"
_TEN_TIMES = Goal(Compared.RATIO, 10, at_least=True)
_NEAR_THE_DISK = Goal(Compared.RATIO, 0.8, at_least=True)
# Of every rate that is tried the outcome at the highest one that passed counts.
_Found = tuple[int, Outcome | None]


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures as soon as each is complete."""
    with running_stage(plan.thin) as stage:
        calm = plan.thin.watermark // MEBIBYTE // 3
        own_delays = trial.run(stage, plan, Side.OURS, calm, watch=True).delays
        rival_delays = trial.run(stage, plan, Side.RIVAL, calm, watch=True).delays
        count = min(len(own_delays), len(rival_delays))
        name = f"Threshold passed → volume grown, at {calm} MiB/s"
        yield Figure(GROUP, name, "s", own_delays[:count], rival_delays[:count], beside=_RIVAL)
        raw: list[float] = []
        mirrored: list[float] = []
        ours: list[_Found] = []
        rival: list[_Found] = []
        for _ in range(plan.searches):
            raw.append(trial.run(stage, plan, Side.NOBODY, 0).rate / MEBIBYTE)
            mirrored.append(trial.run(stage, plan, Side.NOBODY_MIRRORED, 0).rate / MEBIBYTE)
            highest = max(1, int(raw[-1]))
            ours.append(_search(stage, plan, Side.OURS, start=ours[-1][0] if ours else highest, highest=highest))
            # What it can be sure of: the watermark is written between two looks.
            start = rival[-1][0] if rival else int(plan.thin.watermark / MEBIBYTE / 2)
            rival.append(_search(stage, plan, Side.RIVAL, start=start, highest=highest))
        own_rates, rival_rates = (tuple(float(rate) for rate, _ in found) for found in (ours, rival))
        what = "Highest steady write rate with no pause and a live mirror"
        yield Figure(GROUP, what, "MiB/s", own_rates, rival_rates, beside=_RIVAL, goal=_TEN_TIMES)
        yield Figure(
            GROUP,
            f"{what}, beside the disk",
            "MiB/s",
            own_rates,
            tuple(raw),
            beside="the same guest on full-size volumes with no mirror",
            goal=_NEAR_THE_DISK,
        )
        yield Figure(
            GROUP,
            "Full-size volumes with a mirror, which nobody has to extend",
            "MiB/s",
            tuple(mirrored),
            tuple(raw),
            beside="with no mirror",
            note="Not ours: what the mirror alone leaves of the disk's speed",
        )
        yield Figure(GROUP, "Over-allocated at the end, both sides", "MiB", _over(ours), _over(rival), beside=_RIVAL)


def _search(stage: Stage, plan: Plan, side: Side, *, start: int, highest: int) -> _Found:
    passed: dict[int, Outcome] = {}

    def passes(rate: int) -> bool:
        outcome = trial.run(stage, plan, side, rate)
        print(f"  {side} at {rate} MiB/s: {'sustained' if outcome.sustained else 'not sustained'}", flush=True)
        if outcome.sustained:
            passed[rate] = outcome
        return outcome.sustained

    rate = highest_passing(passes, start=start, highest=highest)
    return rate, passed.get(rate)


def _over(found: list[_Found]) -> tuple[float, ...]:
    return tuple(outcome.over_allocated_bytes / MEBIBYTE if outcome is not None else 0.0 for _, outcome in found)
