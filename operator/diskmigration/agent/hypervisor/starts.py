"""Count the starts of VMs without a gap, to tell whether one ran at any time since a moment.

A VM that started and ended between two looks leaves no trace in its state. libvirt reports every start as an event. An
event that was sent while no connection was open is lost, so a new connection is a gap.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import libvirt

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.events import DomainEvent, Events, LifecycleChanged

MOST_VMS = 10_000
"""A new epoch begins when more VMs than that were started, or written to, on one connection."""
EVENT_SECONDS = 10.0
"""How long an event may take that libvirt has queued."""


@dataclass(frozen=True)
class StartCount:
    """How often a VM started in an epoch, which begins with a connection to libvirt; two of different ones differ."""

    epoch: int
    starts: int


class Starts:
    """Hears of every VM's starts on the current connection. Thread-safe."""

    def __init__(self, connection: Connection, events: Events) -> None:
        """Count from each connection that is opened from now on."""
        self._changed = threading.Condition()
        self._opened = 0
        self._epoch = 0
        self._starts: Counter[str] = Counter()
        self._writes: Counter[tuple[str, str]] = Counter()
        connection.on_open(self._register)
        # libvirt takes one callback of a kind on each connection.
        events.listen(self._note)

    def count(self, uuid: str) -> StartCount:
        """Return the VM's count by the events that have arrived."""
        with self._changed:
            return StartCount(self._epoch, self._starts[uuid])

    def count_after(self, uuid: str, metadata_uri: str, write: Callable[[], None]) -> StartCount | None:
        """Write to the VM's metadata, and return its count when the event of that has arrived.

        libvirt hands its events on in the order in which things happened. The count then has every start that came
        before this call. It writes twice: the first event that comes may be that of an earlier write.

        Returns:
            None where the connection was lost meanwhile, or the event did not come.
        """
        first = self._count_after_one(uuid, metadata_uri, write)
        second = self._count_after_one(uuid, metadata_uri, write)
        if first is None or second is None or first.epoch != second.epoch:
            return None
        return second

    def _count_after_one(self, uuid: str, metadata_uri: str, write: Callable[[], None]) -> StartCount | None:
        with self._changed:
            before = (self._epoch, self._writes[uuid, metadata_uri])
        write()
        with self._changed:
            self._changed.wait_for(
                lambda: (self._epoch, self._writes[uuid, metadata_uri]) != before, timeout=EVENT_SECONDS
            )
            if self._epoch != before[0] or self._writes[uuid, metadata_uri] == before[1]:
                return None
            return StartCount(self._epoch, self._starts[uuid])

    def _register(self, connection: libvirt.virConnect) -> None:
        with self._changed:
            self._opened += 1
            number = self._opened
            self._begin_epoch()

        def metadata(_c: Any, domain: Any, _kind: int, uri: str, _o: Any) -> None:
            with self._changed:
                # The last events of a connection that was lost may come after the next one was opened.
                if number == self._opened:
                    if len(self._writes) >= MOST_VMS:
                        self._begin_epoch()
                    self._writes[domain.UUIDString(), uri] += 1
                    self._changed.notify_all()

        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata, None)

    def _begin_epoch(self) -> None:
        """Begin a new epoch, under the condition."""
        self._epoch += 1
        self._starts.clear()
        self._writes.clear()
        self._changed.notify_all()

    def _note(self, event: DomainEvent) -> None:
        # One of a connection that was lost counts too: that is a start too many, and so no harm.
        if isinstance(event, LifecycleChanged) and event.has_started:
            with self._changed:
                if len(self._starts) >= MOST_VMS:
                    self._begin_epoch()
                self._starts[event.uuid] += 1
