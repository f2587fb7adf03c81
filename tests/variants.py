"""Which variants of a test run for each change, and which in `make nightly` alone."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def first_by_day(variants: Iterable[Any], count: int = 1) -> list[Any]:
    """The first so many run for each change, the others at night; a variant is a value, a tuple of them, or a param."""
    return [each if number < count else _at_night(each) for number, each in enumerate(variants)]


def some_by_day(variants: Iterable[Any], step: int) -> list[Any]:
    """The first of each `step` runs for each change, the others at night."""
    return [_at_night(each) if number % step else each for number, each in enumerate(variants)]


def chosen_by_day(variants: Iterable[Any], is_chosen: Callable[[Any], bool]) -> list[Any]:
    """Those that are chosen run for each change, the others at night."""
    return [each if is_chosen(each) else _at_night(each) for each in variants]


def _values(variant: Any) -> tuple[Any, ...]:
    return variant if isinstance(variant, tuple) else (variant,)


def _at_night(variant: Any) -> Any:
    if isinstance(variant, type(pytest.param())):
        marks = variant.marks if variant.marks else ()
        return pytest.param(*variant.values, marks=(*marks, pytest.mark.nightly), id=variant.id)
    return pytest.param(*_values(variant), marks=pytest.mark.nightly)
