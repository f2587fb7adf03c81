"""The StorageDomains as the API server last showed them, kept in a file on the host.

Guests on thin volumes need the extender for as long as they run, so an agent that starts while the API server is away
must know where their volumes lie.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from diskmigration.agent.storage import host_file
from diskmigration.agent.storage.host_file import HostFile
from diskmigration.api.model import Model
from diskmigration.api.storage_domain import StorageDomain

FORMAT = 1
FILE_NAME = "storage-domains.json"
_HOLDS = "the StorageDomains"


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
    """Return what is kept there; see `host_file.read`."""
    return host_file.read(directory / FILE_NAME, from_text, holds=_HOLDS)


def file_of(directory: Path, known: Callable[[], KeptDomains]) -> HostFile:
    """Return the file in the directory that is to hold what is known."""
    return HostFile(directory / FILE_NAME, lambda: to_text(known()), holds=_HOLDS)
