"""How soon a migration begins to copy, how soon it pivots, and where its other time goes."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from bench import moves
from bench.figures import Compared, Figure, Goal
from bench.guests import IDLE, guest_with_data
from bench.mirror import Sightings, watched
from bench.moves import Subject
from bench.plan import MEBIBYTE, Plan
from bench.stage import running_stage

GROUP = "latencies"
# qcow2's own tables in an empty volume, and what is around it; qemu-img and the mirror copy a MiB and more at once.
_EMPTY_BYTES = MEBIBYTE
_DISK_BYTES = 256 * MEBIBYTE
_FIRST_BYTE = Goal(Compared.OURS, 0.5)
_PIVOT = Goal(Compared.OURS, 0.1)


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the figures as soon as each is complete."""
    with running_stage(plan.thin) as stage:
        for strategy in ("Direct", "Snapshot"):
            first: list[float] = []
            pivot: list[float] = []
            log_from = _size(stage.stack.agent.log)
            with guest_with_data(stage, IDLE, capacity_bytes=_DISK_BYTES) as subject:
                for turn in range(plan.latency_moves):
                    started, seen = _move(subject, ("loop-a", "file-a")[turn % 2], strategy)
                    first.append(_instant(seen.first_byte, "the first byte") - started)
                    pivot.append(_instant(seen.pivoted, "the pivot") - _instant(seen.in_step, "the mirror in step"))
            yield Figure(GROUP, f"Apply → first byte copied, {strategy}", "s", tuple(first), goal=_FIRST_BYTE)
            yield Figure(GROUP, f"Synchronized → pivoted, {strategy}", "s", tuple(pivot), goal=_PIVOT)
            for phase, seconds in phase_seconds(_lines(stage.stack.agent.log, log_from)).items():
                yield Figure("phases", f"{strategy}: {phase}", "s", tuple(seconds))


def phase_seconds(lines: list[str]) -> dict[str, list[float]]:
    """Return how long migrations were in each phase, from the agent's log: each line that names a phase begins it."""
    entered: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if {"migration", "phase", "time"} <= said.keys():
            entered[said["migration"]].append((datetime.fromisoformat(said["time"]).timestamp(), said["phase"]))
    found: dict[str, list[float]] = defaultdict(list)
    for moments in entered.values():
        for (start, phase), (end, _) in pairwise(moments):
            found[phase].append(end - start)
    return dict(found)


def _move(subject: Subject, to: str, strategy: str) -> tuple[float, Sightings]:
    moves.ready(subject)
    root = subject.stage.stack.domains[to].root
    with watched(subject.machine.host, subject.machine.name, root, empty_bytes=_EMPTY_BYTES) as seen:
        started = time.monotonic()
        migration = moves.begin(subject.stage, subject.machine, to, strategy=strategy)
        moves.await_success(migration)
    subject.place.append(to)
    return started, seen


def _instant(moment: float | None, what: str) -> float:
    if moment is None:
        raise ValueError(f"{what} was not seen")
    return moment


def _size(log: Path) -> int:
    return log.stat().st_size


def _lines(log: Path, start: int) -> list[str]:
    with log.open("rb") as opened:
        opened.seek(start)
        return opened.read().decode(errors="replace").splitlines()
