"""A file on the host in which the agent keeps what the next one must know to start, and what that one reads of it."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

T = TypeVar("T")


def read(path: Path, parse: Callable[[str], T], *, holds: str) -> T | None:
    """Return what the file has, or None; a file that cannot be read is logged and passed over.

    `parse` raises ValueError or RecursionError on a text that the agent did not write. `holds` is for the log.
    """
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        extra = {"path": str(path), "error": f"{type(error).__name__}: {str(error)[:500]}"}
        _log.warning(f"{holds} kept on the host cannot be read; they are passed over", extra=extra)
        return None


def replace(path: Path, text: str) -> None:
    """Replace the file at once and for good: after a crash it is the old one or the new one.

    Raises:
        OSError: it could not be written; the old one is as it was.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Where the kubelet made it, it is open to all.
    path.parent.chmod(0o700)
    made = path.with_name(f"{path.name}.new")
    with made.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
    opened = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class HostFile:
    """Writes the file when its text has changed, on a thread of its own: the host's disk may hang."""

    def __init__(self, path: Path, text: Callable[[], str], *, holds: str) -> None:
        """Nothing is written before `start`. `holds` says in the log what the file holds."""
        self._path = path
        self._text = text
        self._holds = holds
        self._changed = threading.Event()
        self._written = ""
        self._last_error = ""

    def start(self) -> None:
        """Start writing."""
        threading.Thread(target=self._run, name=f"kept {self._path.name}", daemon=True).start()

    def write_soon(self) -> None:
        """Have the file written if its text is another one now; return at once."""
        self._changed.set()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            with surviving(f"{self._holds} kept on the host"):
                self._write()

    def _write(self) -> None:
        text = self._text()
        if text == self._written:
            return
        try:
            replace(self._path, text)
        except OSError as error:
            if str(error) != self._last_error:
                _log.warning(f"{self._holds} are not kept on the host", extra={"error": str(error)})
            self._last_error = str(error)
        else:
            self._written, self._last_error = text, ""
