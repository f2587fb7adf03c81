"""The StorageDomains as the API server last showed them, kept in a file on the host.

Guests on thin volumes need the extender for as long as they run, so an agent that starts while the API server is away
must know where their volumes lie.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from diskmigration.api.model import Model
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

FORMAT = 1
FILE_NAME = "storage-domains.json"


class KeptDomains(Model):
    """What an agent knows of StorageDomains.

    `deleted` names those whose volumes it goes on extending; so does it with `former` ones, whose names others have.
    """

    node_labels: dict[str, str] = Field(default_factory=dict)
    storage_domains: tuple[StorageDomain, ...] = ()
    deleted: frozenset[str] = frozenset()
    former: tuple[StorageDomain, ...] = ()


def to_text(kept: KeptDomains) -> str:
    """Return the file's contents. Pure; equal for equal knowledge."""
    whole = {
        "format": FORMAT,
        "nodeLabels": kept.node_labels,
        "storageDomains": _to_wire(kept.storage_domains),
        "deleted": sorted(kept.deleted),
        "former": _to_wire(kept.former),
    }
    return json.dumps(whole, indent=1, sort_keys=True) + "\n"


def _to_wire(domains: Iterable[StorageDomain]) -> list[dict[str, Any]]:
    """Return what is worth keeping of them, in an order that is always the same."""
    kept = [
        {
            "metadata": {"name": domain.metadata.name, "uid": domain.metadata.uid},
            "spec": domain.spec.to_wire(),
        }
        for domain in domains
    ]
    return sorted(kept, key=lambda domain: json.dumps(domain, sort_keys=True))


def from_text(text: str) -> KeptDomains:
    """Return what a file holds. Pure.

    Raises:
        ValueError: it is damaged, or of a format that this version does not know.
        RecursionError: it is no file of the agent's.
    """
    whole: Any = json.loads(text)
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    return KeptDomains.from_wire(whole)


def read(directory: Path) -> KeptDomains | None:
    """Return what is kept there, or None; a file that cannot be read is logged and passed over."""
    path = directory / FILE_NAME
    try:
        return from_text(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        told = {"path": str(path), "error": f"{type(error).__name__}: {str(error)[:500]}"}
        _log.warning("the StorageDomains kept on the host cannot be read; they are passed over", extra=told)
        return None


def write(directory: Path, text: str) -> None:
    """Replace the file at once and for good: after a crash it is the old one or the new one.

    Raises:
        OSError: it could not be written; the old one is as it was.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Where the kubelet made it, it is open to all.
    directory.chmod(0o700)
    made = directory / f"{FILE_NAME}.new"
    with made.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    made.replace(directory / FILE_NAME)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class DomainsKeeper:
    """Writes the file when what is known has changed, on a thread of its own: the host's disk may hang."""

    def __init__(self, directory: Path, known: Callable[[], KeptDomains]) -> None:
        """Nothing is written before `start`."""
        self._directory = directory
        self._known = known
        self._changed = threading.Event()
        self._written = ""
        self._told = ""

    def start(self) -> None:
        """Start writing."""
        threading.Thread(target=self._run, name="kept domains", daemon=True).start()

    def write_soon(self) -> None:
        """Have the file written if something else is known now; return at once."""
        self._changed.set()

    def _run(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            with surviving("the StorageDomains kept on the host"):
                self._write()

    def _write(self) -> None:
        text = to_text(self._known())
        if text == self._written:
            return
        try:
            write(self._directory, text)
        except OSError as error:
            if str(error) != self._told:
                _log.warning("the StorageDomains are not kept on the host", extra={"error": str(error)})
            self._told = str(error)
        else:
            self._written, self._told = text, ""
