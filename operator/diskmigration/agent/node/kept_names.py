"""The names of the node's VMs, kept in a file on the host.

libvirtd lists no VM while it holds the lock of one, and an agent that starts then knows none without it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from diskmigration.agent.storage import host_file
from diskmigration.agent.storage.host_file import HostFile

FILE_NAME = "virtual-machines.json"
_NAMES = TypeAdapter(dict[str, str])
_HOLDS = "the names of the node's VMs"


def to_text(names: Mapping[str, str]) -> str:
    """Return the file's contents for the names by uuid."""
    return json.dumps(dict(names), indent=1, sort_keys=True) + "\n"


def read(directory: Path) -> Mapping[str, str]:
    """Return what is kept there; see `host_file.read`."""
    return host_file.read(directory / FILE_NAME, _NAMES.validate_json, holds=_HOLDS) or {}


def file_of(directory: Path, known: Callable[[], Mapping[str, str]]) -> HostFile:
    """Return the file in the directory that is to hold the names that are known."""
    return HostFile(directory / FILE_NAME, lambda: to_text(known()), holds=_HOLDS)
