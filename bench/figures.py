"""A figure as it is kept: what was measured beside what, in pairs, and the goal it is held against."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from bench.statistics import Spread, differences, ratios, spread


class Compared(StrEnum):
    """What of a figure is held against its goal."""

    RATIO = "ratio"
    """Ours divided by the other side's."""
    DIFFERENCE = "difference"
    """Ours less the other side's, in the figure's unit."""
    OURS = "ours"
    """Ours alone."""


@dataclass(frozen=True)
class Goal:
    """At most, or with `at_least` no less than, so much."""

    compared: Compared
    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Say whether a median meets it."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Figure:
    """`ours[n]` and `others[n]` were measured in turn. A figure with nothing beside it has no `others`."""

    group: str
    name: str
    unit: str
    ours: tuple[float, ...]
    others: tuple[float, ...] = ()
    beside: str = ""
    """What the others are."""
    goal: Goal | None = None
    note: str = ""

    def values(self, compared: Compared) -> list[float]:
        """Return what is compared, one of each pair."""
        if compared is Compared.RATIO:
            return ratios(self.ours, self.others)
        return differences(self.ours, self.others) if compared is Compared.DIFFERENCE else list(self.ours)

    def outcome(self) -> Spread:
        """Sum up what the goal is about, or without a goal the ratio where there is one, else ours."""
        if self.goal is not None:
            return spread(self.values(self.goal.compared))
        return spread(self.values(Compared.RATIO if self.others else Compared.OURS))

    def is_met(self) -> bool | None:
        """Say whether the median meets the goal; None without one."""
        return None if self.goal is None else self.goal.is_met(self.outcome().median)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON keeps it, the outcome included, for whoever reads the file alone."""
        return {**asdict(self), "outcome": asdict(self.outcome()), "met": self.is_met()}


def from_json(kept: dict[str, Any]) -> Figure:
    """Read a figure again."""
    goal = kept["goal"]
    return Figure(
        group=kept["group"],
        name=kept["name"],
        unit=kept["unit"],
        ours=tuple(kept["ours"]),
        others=tuple(kept["others"]),
        beside=kept["beside"],
        goal=Goal(Compared(goal["compared"]), goal["limit"], goal["at_least"]) if goal is not None else None,
        note=kept["note"],
    )


def merged(kept: Sequence[Figure], measured: Sequence[Figure]) -> list[Figure]:
    """Put newly measured groups in the place of the kept ones of the same name."""
    groups = {figure.group for figure in measured}
    return [*(figure for figure in kept if figure.group not in groups), *measured]
