"""How much of a storage domain has to stay free: a quantity of bytes, or a percentage of its capacity."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from diskmigration.api.quantity import human_readable, to_bytes

_PERCENTAGE = re.compile(r"([1-9][0-9]?)%")


@dataclass(frozen=True)
class AvailableFloor:
    """One of the two is set, and above zero."""

    size_bytes: int = 0
    percent: int = 0

    def of(self, capacity_bytes: int) -> int:
        """Return the bytes that have to stay free of a storage of that capacity."""
        return self.size_bytes or capacity_bytes * self.percent // 100

    def __str__(self) -> str:
        """As a person reads it."""
        return f"{self.percent}%" if self.percent else human_readable(self.size_bytes)


def read_floor(value: Any) -> AvailableFloor:
    """Return what `5%` or a quantity such as `100Gi` says.

    Raises:
        ValueError: it is neither, or nothing.
    """
    if isinstance(value, AvailableFloor):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{value!r} is neither a quantity such as 100Gi nor a percentage such as 5%")  # noqa: TRY004 - pydantic takes a ValueError for one of the value's
    if (percentage := _PERCENTAGE.fullmatch(str(value))) is not None:
        return AvailableFloor(percent=int(percentage[1]))
    size = to_bytes(value)
    if not size:
        raise ValueError("a floor of nothing is none: leave it out")
    return AvailableFloor(size_bytes=size)


def _to_wire(floor: AvailableFloor) -> str | int:
    return f"{floor.percent}%" if floor.percent else floor.size_bytes


MinAvailable = Annotated[
    AvailableFloor,
    PlainValidator(read_floor, json_schema_input_type=str | int),
    PlainSerializer(_to_wire, when_used="json"),
]
"""A floor as the API has it: an int or a string."""
