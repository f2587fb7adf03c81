"""libvirt's domain events, as values. An event only wakes somebody: what is true is then asked of libvirt."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import libvirt

from diskmigration.agent.hypervisor.connection import Connection

_log = logging.getLogger(__name__)

NO_SPACE = "enospc"


@dataclass(frozen=True)
class DomainEvent:
    """Something happened to the VM of that uuid."""

    uuid: str


@dataclass(frozen=True)
class ThresholdPassed(DomainEvent):
    """A write went past an armed threshold of `device`: `vda[2]`, or `vda` where it repeats one with an index.

    `offset_bytes` is how far that write went.
    """

    device: str
    offset_bytes: int


@dataclass(frozen=True)
class BlockJobChanged(DomainEvent):
    """A block job became ready, ended, failed or was cancelled."""

    target: str


@dataclass(frozen=True)
class IoErrorMet(DomainEvent):
    """QEMU met an error on a disk and acted by its error policy."""

    reason: str


@dataclass(frozen=True)
class LifecycleChanged(DomainEvent):
    """The VM started, stopped, paused, resumed, was defined or undefined.

    `has_left` tells that it stopped here as it was migrated to another host.
    """

    has_started: bool = False
    has_left: bool = False


Listener = Callable[[DomainEvent], None]


class Events:
    """Hands every event to every listener, on libvirt's own thread: a listener must only take note and return."""

    def __init__(self, connection: Connection) -> None:
        """Register with each connection that is opened from now on."""
        self._listeners: list[Listener] = []
        connection.on_open(self._register)

    def listen(self, listener: Listener) -> None:
        """Add a listener for as long as the process lives."""
        self._listeners.append(listener)

    def _emit(self, event: DomainEvent) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - the other listeners must hear of it all the same
                _log.exception("a listener failed on an event", extra={"vm": event.uuid, "event": type(event).__name__})

    def _register(self, connection: libvirt.virConnect) -> None:
        def threshold(_c: Any, domain: Any, device: str, _path: Any, limit: int, excess: int, _o: Any) -> None:
            self._emit(ThresholdPassed(domain.UUIDString(), device, limit + excess))

        def block_job(_c: Any, domain: Any, target: str, _kind: int, _status: int, _o: Any) -> None:
            self._emit(BlockJobChanged(domain.UUIDString(), target))

        def io_error(_c: Any, domain: Any, _path: Any, _alias: Any, _action: int, reason: str, _o: Any) -> None:
            self._emit(IoErrorMet(domain.UUIDString(), reason))

        def lifecycle(_c: Any, domain: Any, event: int, detail: int, _o: Any) -> None:
            left = (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED)
            has_started = event == libvirt.VIR_DOMAIN_EVENT_STARTED
            self._emit(LifecycleChanged(domain.UUIDString(), has_started=has_started, has_left=(event, detail) == left))

        for event_id, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD, threshold),
            (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, block_job),
            (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, io_error),
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
        ):
            connection.domainEventRegisterAny(None, event_id, callback, None)
