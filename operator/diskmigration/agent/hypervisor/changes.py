"""Tell which VM may have another XML or state than before, from all of libvirt's events that say so.

libvirt sends no event for a snapshot of a disk alone, nor for a device that is added to or removed from a definition
alone (seen in 9.0 with `virsh snapshot-create-as --disk-only` and `virsh attach-device --config`).
"""

from collections.abc import Callable
from typing import Any

import libvirt

from diskmigration.agent.hypervisor.connection import Connection

_KINDS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_DISK_CHANGE,
)


def watch(connection: Connection, on_change: Callable[[str], None]) -> None:
    """Call back with a VM's uuid after each event of it, on every connection that is opened from now on.

    The callback comes on libvirt's own thread and must return at once. Events are lost while no connection is open.
    """

    def note(_connection: Any, domain: Any, *_: Any) -> None:
        on_change(domain.UUIDString())

    def register(opened: libvirt.virConnect) -> None:
        for kind in _KINDS:
            opened.domainEventRegisterAny(None, kind, note, None)

    connection.on_open(register)
