"""Remember where the volumes are that QEMUs have open: one cannot come to mean another volume before it is closed."""

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from diskmigration.agent.storage.domains import OpenDomain, StorageDomains

Located = tuple[OpenDomain, str]
Locate = Callable[[int, str], Located | None]
"""Return the storage domain and the name of a volume that a QEMU has open, by its blockdev index and its path."""


class _Opened(NamedTuple):
    """One time that a VM's QEMU opened a volume: which run of QEMU, and the blockdev index that libvirt gave it."""

    run: int
    blockdev: int
    path: str


class Locations:
    """Locates each open volume once, until the storage domains change. Thread-safe."""

    def __init__(self, domains: StorageDomains, locate: Callable[[Path], Located | None]) -> None:
        """`locate` is one of the domains' own."""
        self._domains = domains
        self._locate = locate
        self._guard = threading.Lock()
        self._version = -1
        self._found: dict[str, dict[_Opened, Located]] = {}

    def of_run(self, vm: str, run: int) -> Locate:
        """Return what locates the volumes of one run of a VM's QEMU, by their blockdev index and path.

        It returns and raises what `locate` does. A volume that is in no storage domain is looked for each time.
        """
        return lambda blockdev, path: self._of(vm, _Opened(run, blockdev, path))

    def _of(self, vm: str, opened: _Opened) -> Located | None:
        version = self._domains.version()
        with self._guard:
            if version != self._version:
                self._version, self._found = version, {}
            found = self._found.get(vm, {}).get(opened)
        if found is None and (found := self._locate(Path(opened.path))) is not None:
            self._keep(vm, opened, found, version)
        return found

    def keep_only(self, vms: Collection[str]) -> None:
        """Forget the volumes of all other VMs."""
        with self._guard:
            self._found = {vm: found for vm, found in self._found.items() if vm in vms}

    def keep_open(self, vm: str, opened: Collection[tuple[int, str]]) -> None:
        """Forget the VM's volumes but those that it has open, given by their blockdev index and path.

        A VM whose disks move all day opens ever new volumes in one run.
        """
        with self._guard:
            known = self._found.get(vm, {})
            for each in [each for each in known if (each.blockdev, each.path) not in opened]:
                del known[each]

    def _keep(self, vm: str, opened: _Opened, found: Located, version: int) -> None:
        with self._guard:
            if version != self._version:
                return
            known = self._found.setdefault(vm, {})
            if any(other.run != opened.run for other in known):
                known.clear()
            known[opened] = found
