"""What libvirt tells of one domain as it happens: pauses for want of space, and the end of block jobs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import libvirt

from testbed.libvirt_host import LibvirtHost

_loop: list[threading.Thread] = []


@dataclass
class Happened:
    """What has happened to the domain since it is listened to."""

    pauses: int = 0
    """How many times QEMU paused it for an error of its disk."""
    failed_jobs: int = 0
    """How many block jobs ended by an error."""

    @property
    def is_unharmed(self) -> bool:
        """Whether the guest was never paused, and no mirror has failed."""
        return self.pauses == 0 and self.failed_jobs == 0


def start_loop() -> None:
    """Start libvirt's event loop in a thread, once a process: connections made from then on hear of events."""
    if _loop:
        return
    libvirt.virEventRegisterDefaultImpl()
    thread = threading.Thread(target=_run, name="libvirt-events", daemon=True)
    thread.start()
    _loop.append(thread)


@contextmanager
def listening(host: LibvirtHost, name: str) -> Iterator[Happened]:
    """Listen for the time of the block."""
    start_loop()
    happened = Happened()

    def on_error(*told: Any) -> None:
        if told[4] == libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE:
            happened.pauses += 1

    def on_job(*told: Any) -> None:
        if told[4] == libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED:
            happened.failed_jobs += 1

    connection = libvirt.open(host.uri)
    try:
        domain = connection.lookupByName(name)
        callbacks = [
            connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR, on_error, None),
            connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, on_job, None),
        ]
        yield happened
        for callback in callbacks:
            connection.domainEventDeregisterAny(callback)
    finally:
        connection.close()


def _run() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
