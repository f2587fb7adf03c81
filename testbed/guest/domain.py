"""The libvirt definition of a domain that runs the guest."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from testbed.guest.image import GuestImage
from testbed.guest.records import Layout

_MEMORY_MEBIBYTES = 128


@dataclass(frozen=True)
class Disk:
    """A disk of the domain: its active layer's path and format. The guest writes to the one called vda."""

    path: Path
    format: Literal["qcow2", "raw"] = "qcow2"
    type: Literal["file", "block"] = "file"
    target: str = "vda"


@dataclass(frozen=True)
class Writer:
    """What the guest is to write; `records_per_second` 0 means as fast as the disk takes them.

    `batch` is how many records share one line on the console: with more than 1, up to that many acknowledged records
    are not known as such. A `plain` one writes noise that nobody can judge and syncs nothing: for what a disk can take,
    as stamping each record is slow on an emulated processor.
    """

    layout: Layout
    records_per_second: int = 0
    batch: int = 1
    plain: bool = False

    def command_line(self) -> str:
        """Return the kernel's command line."""
        return " ".join(
            [
                # Level 1: the kernel's own lines stay out of the writer's, but for its last ones.
                "console=ttyS0 quiet loglevel=1 panic=-1",
                # On a busy host an emulated timer is late, which the kernel takes for a broken one, and panics.
                "no_timer_check",
                f"writer.seed={self.layout.seed}",
                f"writer.record_bytes={self.layout.record_bytes}",
                f"writer.span_bytes={self.layout.span_bytes}",
                f"writer.records_per_second={self.records_per_second}",
                f"writer.batch={self.batch}",
                f"writer.plain={int(self.plain)}",
            ]
        )


def domain_xml(
    name: str, uuid: UUID, disks: Sequence[Disk], *, serial_log: Path, image: GuestImage, writer: Writer
) -> str:
    """Return the definition of a domain that boots the guest and keeps its console in `serial_log`.

    The disks are as a hypervisor for production has them: no host cache, native AIO, discards passed on, and a pause
    when the storage is full. See https://libvirt.org/formatdomain.html.
    """
    domain = ET.Element("domain", type="qemu")
    _add(domain, "name", name)
    _add(domain, "uuid", str(uuid))
    _add(domain, "memory", str(_MEMORY_MEBIBYTES), unit="MiB")
    _add(domain, "vcpu", "1")
    system = ET.SubElement(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="pc")
    _add(system, "kernel", str(image.kernel))
    _add(system, "initrd", str(image.initrd))
    _add(system, "cmdline", writer.command_line())
    # The power button of virsh shutdown.
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    ET.SubElement(domain, "cpu", mode="maximum")
    # What the guest wrote is judged; it never starts over by itself.
    _add(domain, "on_reboot", "destroy")
    _add(domain, "on_crash", "destroy")
    devices = ET.SubElement(domain, "devices")
    for disk in disks:
        devices.append(_disk(disk))
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=str(serial_log), append="on")
    ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(domain, encoding="unicode")


def _disk(disk: Disk) -> ET.Element:
    element = ET.Element("disk", type=disk.type, device="disk")
    ET.SubElement(
        element,
        "driver",
        {
            "name": "qemu",
            "type": disk.format,
            "cache": "none",
            "io": "native",
            "error_policy": "enospace",
            "discard": "unmap",
        },
    )
    ET.SubElement(element, "source", {"dev" if disk.type == "block" else "file": str(disk.path)})
    ET.SubElement(element, "target", dev=disk.target, bus="virtio")
    return element


def _add(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
