"""The one place that removes volumes: what somebody needs, may need or has open is kept, and told.

The rules: a volume goes only if it is the migration's own, or the user's top layer, or a layer below that is proven to
be this disk's alone. For the first two it is enough that nobody is known to need them; for a lower layer every image
that could stand on it must have been read.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.migration.activity import Doing
from diskmigration.agent.migration.unneeded_volumes import UnneededVolume
from diskmigration.agent.migration.volume_needs import VolumeNeeds, listed
from diskmigration.agent.other_hosts import OtherHosts
from diskmigration.agent.storage import image_locks
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import StorageDriver, VolumeInUseError
from diskmigration.agent.storage.openers import openers_of_any
from diskmigration.api.disk_migration import RetainedVolume
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)

_CLOSING_SECONDS = 10.0
"""How long a process that has a volume open, as a QEMU that has just left it, is given to close it."""
_ASK_SECONDS = 0.5


def remove_probe(driver: StorageDriver, name: str) -> None:
    """Remove a file that was made just now to see what can be made, and that nobody was told of.

    Raises:
        MigrationError: StorageFailed.
    """
    driver.remove(name)


class Remover:
    """Removes volumes of the storage domains of this node. Thread-safe."""

    def __init__(self, connection: Connection, domains: StorageDomains, hosts: OtherHosts) -> None:
        """`connection` is to libvirt, which knows the VMs of this node; `hosts` are the others."""
        self._connection = connection
        self._domains = domains
        self._hosts = hosts

    def remove(
        self,
        home: OpenDomain,
        chain: Sequence[UnneededVolume],
        *,
        wait: Callable[[float], object] = time.sleep,
        doing: Doing = nullcontext,
    ) -> tuple[RetainedVolume, ...]:
        """Remove a chain or a part of one, top first, and return what was kept, with why.

        All that lies below a kept volume is kept. `wait` waits for so many seconds, or less; `doing` tells what lasts.

        Raises:
            MigrationError: StorageFailed, HypervisorUnavailable; some volumes may be gone by then.
        """
        needs = VolumeNeeds(self._connection, self._domains, home, self._hosts, wait=wait, doing=doing)
        for position, unneeded in enumerate(chain):
            reason = _remove(home, unneeded, needs, wait, doing)
            if reason is not None:
                below = (_retained(lower, f"It lies below {unneeded.name}.") for lower in chain[position + 1 :])
                kept = (_retained(unneeded, reason), *below)
                for volume in kept:
                    extra = {"volume": volume.name, "storageDomainName": home.name, "reason": volume.reason}
                    _log.info("kept a volume", extra=extra)
                return kept
        return ()

    def need_of(self, home: OpenDomain, unneeded: UnneededVolume) -> str | None:
        """Return who needs a volume, as a sentence; None where nobody is known to, or it is not there.

        Raises:
            MigrationError: StorageFailed, HypervisorUnavailable.
        """
        image = home.driver.image(unneeded.name)
        needs = VolumeNeeds(self._connection, self._domains, home, self._hosts, wait=time.sleep, doing=nullcontext)
        return needs.of(unneeded, image) if image is not None else None


def _remove(
    home: OpenDomain, unneeded: UnneededVolume, needs: VolumeNeeds, wait: Callable[[float], object], doing: Doing
) -> str | None:
    """Remove the volume, and return why it is kept, or None once it is gone."""
    image = home.driver.image(unneeded.name)
    if image is not None:
        with doing(f"Finding out who needs {unneeded.path}"):
            reason = needs.of(unneeded, image)
        if reason is None:
            with doing(f"Waiting for {unneeded.path} to be closed"):
                reason = _opener_of(home, unneeded, wait)
        if reason is not None:
            return reason
    elif unneeded.is_expected:
        return "It was not there when it was to be removed. See whether its file system is mounted on the node."
    try:
        with doing(f"Removing {unneeded.path}"):
            home.driver.remove(unneeded.name)
    except VolumeInUseError as error:
        return error.message
    except MigrationError as error:
        if error.reason is Reason.VOLUME_NOT_HANDED_OVER:
            return error.message
        raise
    if image is not None:
        needs.gone.add(image.identity)
    return None


def _opener_of(home: OpenDomain, unneeded: UnneededVolume, wait: Callable[[float], object]) -> str | None:
    """Return who has the volume open, as a sentence; None where nobody has."""
    paths = home.driver.paths(unneeded.name)
    until = time.monotonic() + _CLOSING_SECONDS
    while True:
        openers = {opener for found in openers_of_any(paths).values() for opener in found}
        if not openers:
            break
        if time.monotonic() > until:
            return (
                f"It is open: {listed(sorted(map(str, openers)))}. Remove it when that has ended, if nobody needs it."
            )
        wait(_ASK_SECONDS)
    try:
        is_held = any(map(image_locks.is_held, paths))
    except OSError as error:
        return f"Whether a QEMU has it open cannot be told: {error}."
    return "A QEMU has it open, maybe on another node: QEMU's lock is on it." if is_held else None


def _retained(unneeded: UnneededVolume, reason: str) -> RetainedVolume:
    return RetainedVolume(name=unneeded.name, path=unneeded.path, reason=reason)
