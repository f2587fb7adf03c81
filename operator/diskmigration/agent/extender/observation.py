"""What the extender knows of VMs before it asks libvirt: the node's polls, and the XML that was read already."""

import queue
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeGuard

from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.api.storage_domain import StorageDomainSpec

Specs = Mapping[str, StorageDomainSpec]
"""The storage domains' specs by name: a watermark that is raised makes a volume due."""

OBSERVE_ANYWAY_SECONDS = 30.0
"""An idle VM is observed that often, for what no statistics tell."""


@dataclass(frozen=True)
class Observation:
    """What libvirt said of one VM.

    The statistics were asked for at `asked_at` and had come at `found_at`, on the monotonic clock.
    """

    description: DomainDescription
    found: DomainStatistics
    asked_at: float
    found_at: float


def is_enough(observation: Observation | None, *, observed_at: float | None) -> TypeGuard[Observation]:
    """Return whether the VM need not be asked again. Pure.

    `observed_at` is when the statistics of the last observation had come: older ones would seem to be of a volume that
    has lost data. A VM that an error has paused may go on at any moment, and needs to be asked for its disks' errors.
    """
    return (
        observation is not None
        and observation.found.state is not None
        and not observation.found.is_paused_by_io_error
        and (observed_at is None or observation.asked_at > observed_at)
    )


@dataclass(frozen=True)
class IdleObservation:
    """An observation that found nothing to do: as long as the poll shows the same, nobody needs to observe again.

    An observation asks libvirt for several things. On a node with many idle VMs, these would be nearly all that the
    agent and libvirtd do.
    """

    found: DomainStatistics
    specs: Specs
    at: float

    def still_holds(self, found: DomainStatistics, specs: Specs, *, at: float) -> bool:
        """Return whether another observation at that time would find the same."""
        return (self.found, self.specs) == (found, specs) and at - self.at < OBSERVE_ANYWAY_SECONDS


@dataclass(frozen=True)
class Polled:
    """The statistics of all running VMs, with times as an Observation has them."""

    rows: tuple[DomainStatistics, ...]
    asked_at: float
    found_at: float


class PollQueue:
    """Hands the newest poll over to another thread."""

    def __init__(self) -> None:
        """Start with no poll."""
        self._polls: queue.SimpleQueue[Polled] = queue.SimpleQueue()

    def put(self, poll: Polled) -> None:
        """Hand over a poll; older ones that were not taken are dropped."""
        self._polls.put(poll)

    def take(self, *, timeout: float) -> Polled | None:
        """Wait for a poll, and return the newest; None where none came in that time."""
        poll = None
        with suppress(queue.Empty):
            poll = self._polls.get(timeout=timeout)
            while True:
                poll = self._polls.get_nowait()
        return poll
