"""The search for the highest rate that is sustained. Pure: the trial is the caller's."""

from collections.abc import Callable


def highest_passing(
    passes: Callable[[int], bool], *, start: int, highest: int, factor: float = 1.5, resolution: float = 0.1
) -> int:
    """Return the highest whole rate that was seen to pass, 0 where not even 1 does; it was tried, as was one above it.

    From `start`, the rate is multiplied by `factor`, up or down, until one passes and one fails; then the two are
    brought together until the failing one is at most `resolution` above the passing one. `highest` is never exceeded.
    """
    passing, failing = 0, highest + 1
    rate = min(max(start, 1), highest)
    while failing - passing > max(1, int(passing * resolution)):
        if passes(rate):
            passing = rate
        else:
            failing = rate
        rate = _next(passing, failing, highest, factor)
    return passing


def _next(passing: int, failing: int, highest: int, factor: float) -> int:
    if failing > highest:
        return min(max(int(passing * factor), passing + 1), highest)
    if passing == 0:
        return max(1, int(failing / factor))
    return (passing + failing) // 2
