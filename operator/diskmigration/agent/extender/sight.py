"""What the extender knows of VMs before it asks libvirt: the node's polls, and the XML that was read already."""

import queue
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeGuard

from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.statistics import DomainStatistics


@dataclass(frozen=True)
class Sight:
    """What libvirt said of one VM.

    The statistics were asked for at `asked_at` and had come at `found_at`, on the monotonic clock.
    """

    description: DomainDescription
    found: DomainStatistics
    asked_at: float
    found_at: float


def is_enough(sight: Sight | None, *, looked_at: float | None) -> TypeGuard[Sight]:
    """Return whether a look at the VM need not ask libvirt. Pure.

    `looked_at` is when the statistics of the last look had come: older ones would seem to be of a volume that has lost
    data. A VM that an error has paused may go on at any moment, and needs to be asked for its disks' errors.
    """
    return (
        sight is not None
        and sight.found.state is not None
        and not sight.found.is_paused_by_io_error
        and (looked_at is None or sight.asked_at > looked_at)
    )


@dataclass(frozen=True)
class Polled:
    """The statistics of all running VMs, with times as a Sight has them."""

    rows: tuple[DomainStatistics, ...]
    asked_at: float
    found_at: float


class PollQueue:
    """Hands the newest poll over to another thread."""

    def __init__(self) -> None:
        """Nothing was polled yet."""
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
