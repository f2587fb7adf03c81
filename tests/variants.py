"""Which variants of a test run for each change, and which in `make nightly` alone."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_by_day(variants: Iterable[Any], count: int = 1) -> list[Any]:
    """The first so many run for each change, the others at night; a variant is a value, a tuple of them, or a param."""
    return [each if number < count else _at_night(each) for number, each in enumerate(variants)]


def every_second_by_day(variants: Iterable[Any]) -> list[Any]:
    """The first, the third and so on run for each change, the others at night."""
    return [_at_night(each) if number % 2 else each for number, each in enumerate(variants)]


def _at_night(variant: Any) -> Any:
    if isinstance(variant, type(pytest.param())):
        marks = variant.marks if variant.marks else ()
        return pytest.param(*variant.values, marks=(*marks, pytest.mark.nightly), id=variant.id)
    values = variant if isinstance(variant, tuple) else (variant,)
    return pytest.param(*values, marks=pytest.mark.nightly)
