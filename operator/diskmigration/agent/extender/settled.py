"""The VMs of which a look found nothing to do: they need no other one before something changes.

A look asks libvirt for several things, and QEMU once more for the statistics that the poll has of all VMs in one call.
On a node with many VMs that are at rest the looks would be nearly all that its agent and its libvirtd do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.api.storage_domain import StorageDomainSpec

Specs = Mapping[str, StorageDomainSpec]
"""Those of the storage domains by their names: a watermark that is raised makes a volume due."""

LOOK_ANYWAY_SECONDS = 30.0
"""A VM at rest is looked at that often, for what no statistics tell."""


@dataclass(frozen=True)
class _Look:
    found: DomainStatistics
    specs: Specs
    at: float


class Settled:
    """A VM is noted by the one that looks at it, and asked for by the one that polls: no lock is needed."""

    def __init__(self) -> None:
        """No VM was looked at yet."""
        self._looks: dict[str, _Look] = {}

    def note(self, found: DomainStatistics, specs: Specs, *, at: float) -> None:
        """A look that began with these statistics found nothing to do."""
        self._looks[found.uuid] = _Look(found, specs, at)

    def forget(self, uuid: str) -> None:
        """The VM is looked at, or has gone."""
        self._looks.pop(uuid, None)

    def includes(self, found: DomainStatistics, specs: Specs, *, at: float) -> bool:
        """Whether another look at that time would find what the last one did."""
        last = self._looks.get(found.uuid)
        return last is not None and (last.found, last.specs) == (found, specs) and at - last.at < LOOK_ANYWAY_SECONDS
