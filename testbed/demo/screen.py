"""What the demo prints: lines with the seconds since its start, and blocks below them."""

import textwrap
import threading
import time
from collections.abc import Sequence

_INDENT = " " * 10


class Screen:
    """Standard output. Lines from several threads never mix."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._guard = threading.Lock()
        self.part = ""

    def say(self, text: str) -> None:
        """Print a line of progress with its time."""
        self._print(f"{time.monotonic() - self._start:6.1f} s  {text}")

    def show(self, block: str) -> None:
        """Print lines as they are, below the line of progress that they belong to."""
        self._print(textwrap.indent(block.rstrip("\n"), _INDENT))

    def head(self, text: str) -> None:
        """Print the title of a new part, and keep it as `part`."""
        self.part = text
        self._print(f"\n{text}\n{'-' * len(text)}")

    def gap(self) -> None:
        """Print an empty line."""
        self._print("")

    def _print(self, text: str) -> None:
        with self._guard:
            print(text, flush=True)


def table(*rows: Sequence[str]) -> str:
    """Return rows of cells in columns, as kubectl lays them out."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def milliseconds(seconds: float) -> str:
    """Return a time for people."""
    return f"{seconds * 1000:.0f} ms"


def mebibytes(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 2**20:.0f} MiB"
