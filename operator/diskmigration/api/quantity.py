"""Kubernetes quantities (`512Mi`, `1Gi`, `200M`) to bytes and back to something a person reads."""

import re
from typing import Annotated

from kubernetes.utils.quantity import parse_quantity
from pydantic import BeforeValidator, Field

MAX_BYTES = 2**63 - 1
"""What libvirt and the API's int64 can hold."""

# The grammar of k8s.io/apimachinery's resource.Quantity; Python's Decimal reads more: spaces, underscores, infinities.
_QUANTITY = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,9})?")


def to_bytes(quantity: str | int) -> int:
    """The whole number of bytes that a quantity says.

    Raises:
        ValueError: not a quantity, a fraction of a byte, negative, or past 2^63-1.
    """
    if _QUANTITY.fullmatch(str(quantity)) is None:
        raise ValueError(f"{quantity!r} is not a quantity such as 512Mi")
    value = parse_quantity(quantity)
    # Before it is made an int: 1e999999999 would take the machine's memory.
    if not 0 <= value <= MAX_BYTES:
        raise ValueError(f"{quantity!r} is not between 0 and {MAX_BYTES} bytes")
    whole = int(value)
    if whole != value:
        raise ValueError(f"{quantity!r} is not a whole number of bytes")
    return whole


PositiveBytes = Annotated[int, BeforeValidator(to_bytes), Field(gt=0)]
"""A size read from a quantity, in bytes, above zero."""


def human_readable(size_bytes: int) -> str:
    """A size for people, in binary units with at most one decimal: `3.0Gi`, `512Mi`, `17`."""
    size = float(size_bytes)
    for unit in ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"):
        if round(size) < 1024 or unit == "Ei":
            break
        size /= 1024
    return f"{size:.0f}{unit}" if unit in ("", "Ki", "Mi") else f"{size:.1f}{unit}"
