"""Text as the Kubernetes API takes it: UTF-8, which the name of a file need not be."""

import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = "\udc80", "\udcff"
"""What Python decodes the bytes 0x80 to 0xff to where they are no UTF-8 (PEP 383)."""


def printable(text: str) -> str:
    r"""Return the text with each byte that is no UTF-8 written out, as `\xe9`; any other surrogate becomes U+FFFD."""
    return _SURROGATE.sub(_written_out, text)


def printable_object(value: Any) -> Any:
    """Return a copy of a JSON value with every text in it `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): printable_object(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [printable_object(entry) for entry in value]
    return value


def _written_out(found: re.Match[str]) -> str:
    if _FIRST_BYTE <= found[0] <= _LAST_BYTE:
        return f"\\x{ord(found[0]) - 0xDC00:02x}"
    return "\ufffd"
