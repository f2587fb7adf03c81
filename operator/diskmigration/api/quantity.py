"""Kubernetes quantities (`512Mi`, `1Gi`, `200M`) to bytes and back to something a person reads."""

from typing import Annotated

from kubernetes.utils.quantity import parse_quantity
from pydantic import BeforeValidator, Field

MAX_BYTES = 2**63 - 1
"""What libvirt and the API's int64 can hold."""


def to_bytes(quantity: str | int) -> int:
    """The whole number of bytes that a quantity says.

    Raises:
        ValueError: not a quantity, a fraction of a byte, negative, or past 2^63-1.
    """
    value = parse_quantity(quantity)
    whole = int(value)
    if whole != value:
        raise ValueError(f"{quantity!r} is not a whole number of bytes")
    if not 0 <= whole <= MAX_BYTES:
        raise ValueError(f"{quantity!r} is not between 0 and {MAX_BYTES} bytes")
    return whole


PositiveBytes = Annotated[int, BeforeValidator(to_bytes), Field(gt=0)]
"""A size read from a quantity, in bytes, above zero."""


def human_readable(size_bytes: int) -> str:
    """A size for people, in binary units with at most one decimal: `3.0Gi`, `512Mi`, `17`."""
    size = float(size_bytes)
    for unit in ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"):
        if size < 1024 or unit == "Ei":
            break
        size /= 1024
    return f"{size:.0f}{unit}" if unit in ("", "Ki", "Mi") else f"{size:.1f}{unit}"
