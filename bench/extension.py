"""How fast a guest may write to thin volumes before one is full: ours, the classical design, and the bare disk."""

from collections.abc import Iterator

from bench import trial
from bench.figures import Compared, Figure, Goal
from bench.plan import MEBIBYTE, Plan
from bench.search import highest_passing
from bench.stage import APART, Stage, running_stage
from bench.trial import Extender, Outcome, Side

GROUP = "extension"
_RIVAL = "classical design"
_DISK = "full-size volume, no mirror"
_MIRROR = "full-size volumes, mirrored"
_OURS = Side(Extender.OURS, "loop-b")
_OURS_APART = Side(Extender.OURS, APART)
_OURS_ALONE = Side(Extender.OURS, None)
_CLASSICAL = Side(Extender.RIVAL, "loop-b")
_RAW = Side(Extender.NOBODY, None)
_MIRRORED = Side(Extender.NOBODY, "loop-b")
_MIRRORED_APART = Side(Extender.NOBODY, APART)
_TEN_TIMES = Goal(Compared.RATIO, 10, at_least=True)
_NEAR_THE_DISK = Goal(Compared.RATIO, 0.8, at_least=True)
# Of every rate that is tried the outcome at the highest one that passed counts.
_Found = tuple[int, Outcome | None]


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures as soon as each is complete."""
    with running_stage(plan.thin) as stage:
        calm = plan.thin.watermark // MEBIBYTE // 3
        own_delays = trial.run(stage, plan, _OURS, calm, watch=True).delays
        rival_delays = trial.run(stage, plan, _CLASSICAL, calm, watch=True).delays
        count = min(len(own_delays), len(rival_delays))
        name = f"Threshold passed → volume grown, at {calm} MiB/s"
        yield Figure(GROUP, name, "s", own_delays[:count], rival_delays[:count], beside=_RIVAL)
        free: dict[Side, list[float]] = {_RAW: [], _MIRRORED: [], _MIRRORED_APART: [], _OURS_ALONE: []}
        ours: list[_Found] = []
        apart: list[_Found] = []
        rival: list[_Found] = []
        for _ in range(plan.searches):
            for side, rates in free.items():
                outcome = trial.run(stage, plan, side, 0)
                print(f"  {side} without limit: {_ended(outcome)}", flush=True)
                rates.append(outcome.rate / MEBIBYTE)
            highest = max(1, int(free[_RAW][-1]))
            for side, found in ((_OURS, ours), (_OURS_APART, apart)):
                found.append(search(stage, plan, side, start=found[-1][0] if found else highest, highest=highest))
            # What it can be sure of: the watermark is written between two looks.
            start = rival[-1][0] if rival else int(plan.thin.watermark / MEBIBYTE / 2)
            rival.append(search(stage, plan, _CLASSICAL, start=start, highest=highest))
        raw, mirrored, mirrored_apart, alone = (tuple(rates) for rates in free.values())
        fastest, fastest_apart = reached(ours), reached(apart)
        yield _rates("Highest rate with no pause and a live mirror", fastest, reached(rival), _RIVAL, _TEN_TIMES)
        yield _rates("The same, beside the disk", fastest, raw, _DISK, _NEAR_THE_DISK)
        yield _rates("The same, beside the mirror alone", fastest, mirrored, _MIRROR, _NEAR_THE_DISK)
        yield _rates("The mirror alone, beside the disk (not ours)", mirrored, raw, _DISK, None)
        yield _rates("The mirror on a disk of its own, beside the disk", fastest_apart, raw, _DISK, _NEAR_THE_DISK)
        yield _rates("The same, beside such a mirror alone", fastest_apart, mirrored_apart, _MIRROR, _NEAR_THE_DISK)
        yield _rates("Such a mirror alone, beside the disk (not ours)", mirrored_apart, raw, _DISK, None)
        yield _rates("With no mirror, beside the disk", alone, raw, _DISK, _NEAR_THE_DISK)
        yield Figure(GROUP, "Over-allocated at the end, both sides", "MiB", _over(ours), _over(rival), beside=_RIVAL)


def _rates(name: str, ours: tuple[float, ...], other: tuple[float, ...], beside: str, goal: Goal | None) -> Figure:
    return Figure(GROUP, name, "MiB/s", ours, other, beside=beside, goal=goal)


def search(stage: Stage, plan: Plan, side: Side, *, start: int, highest: int) -> _Found:
    """Search for the highest rate that the side sustains; return it, and its trial where there is one."""
    passed: dict[int, Outcome] = {}

    def passes(rate: int) -> bool:
        outcome = trial.run(stage, plan, side, rate)
        print(f"  {side} at {rate} MiB/s: {_ended(outcome)}", flush=True)
        if outcome.sustained:
            passed[rate] = outcome
        return outcome.sustained

    rate = highest_passing(passes, start=start, highest=highest)
    return rate, passed.get(rate)


def _ended(outcome: Outcome) -> str:
    return f"{outcome.rate / MEBIBYTE:.0f} MiB/s reached" if outcome.sustained else "not sustained"


def reached(found: list[_Found]) -> tuple[float, ...]:
    """Return the rate in MiB/s that the guest had at the end of each search."""
    return tuple(outcome.rate / MEBIBYTE if outcome is not None else 0.0 for _, outcome in found)


def _over(found: list[_Found]) -> tuple[float, ...]:
    return tuple(outcome.over_allocated_bytes / MEBIBYTE if outcome is not None else 0.0 for _, outcome in found)
