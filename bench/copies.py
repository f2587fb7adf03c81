"""Whole migrations beside bare scripts, on the same disks: file to file, file to block, block to file."""

import time
from collections import defaultdict
from collections.abc import Iterator

from bench import moves
from bench.figures import Compared, Figure, Goal
from bench.guests import BUSY, IDLE, Load, guest_with_data
from bench.moves import Subject
from bench.plan import GIBIBYTE, Plan
from bench.stage import Stage, running_stage

GROUP = "copies"
_ALL_WAYS = ("file-b", "loop-a", "file-a")
_TO_BLOCK_AND_BACK = ("loop-a", "file-a")
_AT_MOST = Goal(Compared.RATIO, 1.02)
_SECONDS_MORE = Goal(Compared.DIFFERENCE, 0.5)
_AHEAD = Goal(Compared.RATIO, 1.0)


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures as soon as each is complete."""
    with running_stage(plan.thin) as stage:
        for capacity, pairs in plan.copies:
            for load in (IDLE, BUSY):
                yield from _measure_one(stage, load, "Direct", capacity, pairs, ways=_ALL_WAYS)
            yield from _measure_one(stage, IDLE, "Snapshot", capacity, pairs, ways=_TO_BLOCK_AND_BACK)
            yield from _measure_one(stage, IDLE, "Snapshot", capacity, pairs, ways=_TO_BLOCK_AND_BACK, chain=3)


def _measure_one(
    stage: Stage, load: Load, strategy: str, capacity: int, pairs: int, *, ways: tuple[str, ...], chain: int = 1
) -> Iterator[Figure]:
    own: dict[str, list[moves.Timed]] = defaultdict(list)
    bare: dict[str, list[moves.Timed]] = defaultdict(list)
    alone: list[float] = []
    with guest_with_data(stage, load, capacity_bytes=capacity, chain=chain) as subject:
        for turn in range(pairs):
            sides = [(moves.ours, own), (moves.bare, bare)]
            # The order changes, so that neither side always has the older disk.
            for move, found in sides if turn % 2 == 0 else reversed(sides):
                for to in ways:
                    way = f"{subject.at.partition('-')[0]} → {to.partition('-')[0]}"
                    found[way].append(move(subject, to, strategy=strategy))
            alone.append(_gap_alone(subject, max(each[-1].seconds for each in own.values())))
    size = f"{capacity // GIBIBYTE} GiB" if capacity >= GIBIBYTE else f"{capacity // 2**20} MiB"
    layers = f", chain of {chain}" if chain > 1 else ""
    goal = _AHEAD if chain > 1 else _AT_MOST if capacity >= 8 * GIBIBYTE else _SECONDS_MORE
    seconds = [
        (way, tuple(each.seconds for each in own[way]), tuple(each.seconds for each in bare[way])) for way in own
    ]
    if goal.compared is Compared.RATIO:
        seconds.append(("all of these ways", _totals(own), _totals(bare)))
    for way, ours, script in seconds:
        name = f"{strategy}, {way}, {size}{layers}, {load.name} guest"
        yield Figure(GROUP, name, "s", ours, script, beside="script", goal=goal)
    if load is BUSY:
        for beside, gaps in (("alone", alone), ("script", [max(g) for g in zip(*_gaps(bare), strict=True)])):
            yield Figure(
                "gaps",
                f"Longest gap between two completed writes, {strategy}, {size}, beside: {beside}",
                "s",
                tuple(max(g) for g in zip(*_gaps(own), strict=True)),
                tuple(gaps),
                beside="the same guest left alone" if beside == "alone" else "the script's moves",
            )


def _totals(found: dict[str, list[moves.Timed]]) -> tuple[float, ...]:
    """Return how long the moves of each turn took together."""
    return tuple(sum(each.seconds for each in turn) for turn in zip(*found.values(), strict=True))


def _gaps(found: dict[str, list[moves.Timed]]) -> list[list[float]]:
    return [[each.gap_seconds for each in timed] for timed in found.values()]


def _gap_alone(subject: Subject, seconds: float) -> float:
    started = time.monotonic()
    time.sleep(seconds)
    return subject.guest.console.longest_gap_between_seconds(started, time.monotonic())
