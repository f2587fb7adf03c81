"""What is made of repeated measurements: medians with their spread, and ratios pair by pair. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float]) -> Spread:
    """Sum measurements up.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("nothing was measured")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Divide ours by the other side's, each by the one that was measured right beside it.

    Raises:
        ValueError: they are no pairs, or the other side's is zero.
    """
    return [own / _not_zero(other) for own, other in zip(ours, others, strict=True)]


def differences(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Subtract the other side's from ours, pair by pair. Raises ValueError where they are no pairs."""
    return [own - other for own, other in zip(ours, others, strict=True)]


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("the other side's measurement is zero")
    return value
