"""Count the calls that are sent to libvirtd, by libvirt's name of each."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from prometheus_client import Counter

_ANSWERED_BY_THE_CLIENT = frozenset(
    {
        "virConnectIsAlive",
        "virDomainCheckpointFree",
        "virDomainCheckpointGetName",
        "virDomainFree",
        "virDomainGetConnect",
        "virDomainGetID",
        "virDomainGetName",
        "virDomainGetUUID",
        "virDomainGetUUIDString",
        "virDomainRef",
        "virDomainSnapshotFree",
        "virDomainSnapshotGetName",
        "virStoragePoolFree",
        "virStorageVolFree",
    }
)
"""libvirt's client answers these itself, from the handle. Source: libvirt's src/libvirt-domain.c."""

_REMOTE = ("virConnect", "virDomain", "virStorage")


class CountedModule:
    """Stand in for one of libvirt's modules of C functions, and count those that ask libvirtd.

    Every method of libvirt's Python classes ends in one such function, whichever object it is called on.
    """

    def __init__(self, module: ModuleType, calls: Counter) -> None:
        """Count `module`'s functions by their names in `calls`."""
        self._module = module
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        """Return the module's function, and keep it: this is asked once for each name."""
        found = getattr(self._module, name)
        if callable(found) and name.startswith(_REMOTE) and name not in _ANSWERED_BY_THE_CLIENT:
            found = _counted(found, self._calls.labels(name))
        setattr(self, name, found)
        return found


def _counted(function: Callable[..., Any], calls: Counter) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        calls.inc()
        return function(*arguments)

    return call
