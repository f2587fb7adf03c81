"""The devices of each volume group's physical volumes, as its last report had them.

They are kept in a file on the host: an agent that starts while a device hangs must not have lvm2 read them all to find
those of the other groups.
"""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from diskmigration.agent.storage import host_file
from diskmigration.agent.storage.host_file import HostFile

FILE_NAME = "volume-groups.json"
_DEVICES = TypeAdapter(dict[str, tuple[str, ...]])
_HOLDS = "the devices of the volume groups"


class GroupDevices:
    """Thread-safe."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._guard = threading.Lock()
        self._known: dict[str, tuple[str, ...]] = {}
        self._on_change: Callable[[], None] = lambda: None

    def of(self, group: str) -> tuple[str, ...]:
        """Return the group's devices; none where they are not known."""
        with self._guard:
            return self._known.get(group, ())

    def put(self, group: str, devices: tuple[str, ...]) -> None:
        """Record the group's devices; none says that they are not known."""
        with self._guard:
            if self._known.get(group, ()) == devices:
                return
            if devices:
                self._known[group] = devices
            else:
                del self._known[group]
            on_change = self._on_change
        on_change()

    def all(self) -> dict[str, tuple[str, ...]]:
        """Return the devices by their group's name."""
        with self._guard:
            return dict(self._known)

    def restore(self, kept: Mapping[str, tuple[str, ...]]) -> None:
        """Take over what the last agent knew, of groups that were not read yet."""
        with self._guard:
            self._known = {**kept, **self._known}

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have the listener called after each change; it must return at once."""
        with self._guard:
            self._on_change = listener


known = GroupDevices()
"""Those of this node."""


def to_text(devices: Mapping[str, tuple[str, ...]]) -> str:
    """Return the file's contents. Pure."""
    return json.dumps(dict(devices), indent=1, sort_keys=True) + "\n"


def read(directory: Path) -> Mapping[str, tuple[str, ...]]:
    """Return what is kept there; see `host_file.read`."""
    return host_file.read(directory / FILE_NAME, _DEVICES.validate_json, holds=_HOLDS) or {}


def file_of(directory: Path) -> HostFile:
    """Return the file in the directory that is to hold what is known."""
    return HostFile(directory / FILE_NAME, lambda: to_text(known.all()), holds=_HOLDS)
