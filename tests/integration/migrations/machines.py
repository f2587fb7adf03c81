"""VMs with no operating system, whose disks have chains of a given shape and contents known byte for byte."""

import itertools
import json
import operator
import subprocess
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import libvirt

from diskmigration.api.vm_owner import OWNER_URI
from testbed import qemu_io
from testbed.libvirt_host import LibvirtHost
from tests.integration import loop_devices

MEBIBYTE = 2**20
CAPACITY_BYTES = 128 * MEBIBYTE
LAYER_BYTES = 5 * MEBIBYTE
# As virsh calls them.
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
# In XML they would be read as spaces.
_KEPT = {character: f"&#{ord(character)};" for character in "\t\n\r"}


@dataclass(frozen=True)
class Domain:
    """A storage domain as the tests see it: where its volumes are, and how they are made without the project.

    The root of one of kind lvm is the directory of the group's devices.
    """

    name: str
    kind: str
    root: Path

    @property
    def disk_type(self) -> str:
        """libvirt's word."""
        return "file" if self.kind == "file" else "block"

    @property
    def place(self) -> dict[str, str]:
        """What a StorageDomain's spec says of it."""
        return {"volumeGroup": self.root.name} if self.kind == "lvm" else {"path": str(self.root)}

    @property
    def directory(self) -> Path:
        """Where the tests put what is no volume."""
        return Path("/run") if self.kind == "lvm" else self.root.parent

    def path(self, name: str) -> Path:
        """Where QEMU finds a volume that the project made."""
        return self.root / "dev" / name if self.kind == "loop" else self.root / name

    def make_volume(self, name: str, size_bytes: int) -> Path:
        """An empty volume, as an administrator would have made it and handed it over; its path for QEMU."""
        if self.kind == "lvm":
            tag = ["--addtag", "diskmigration.dev"]
            _run("lvcreate", "--yes", "--size", f"{size_bytes}b", *tag, "--name", name, self.root.name)
            return self.root / name
        file = self.root / name
        with file.open("wb") as opened:
            opened.truncate(size_bytes if self.kind == "loop" else 0)
        if self.kind == "file":
            return file
        return Path(_run("losetup", "--find", "--show", "--direct-io=on", str(file)).strip())

    def files(self) -> list[str]:
        """The names of the volumes that are there."""
        if self.kind == "lvm":
            return sorted(_run("lvs", "--noheadings", "-o", "lv_name", self.root.name).split())
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_file())


@dataclass
class Machine:
    """A paused VM and one of its disks; `written` is what the disk must hold: offset to length and pattern."""

    host: LibvirtHost
    name: str
    uuid: str
    volumes: list[Path]
    written: dict[int, tuple[int, int]] = field(default_factory=dict)
    target: str = "vda"

    @property
    def device(self) -> str:
        """The disk's alias."""
        return f"virtio-disk{ord(self.target[-1]) - ord('a')}"

    def write(self, *, offset: int, length: int, pattern: int) -> None:
        """Writes through the VM's whole block stack, a mirror included."""
        qemu_io.write_pattern(self.host, self.name, offset=offset, length=length, pattern=pattern, device=self.device)
        self.written[offset] = (length, pattern)

    def verify(self) -> None:
        """Reads back every byte of the disk: what was written, and zeroes between."""
        offset = 0
        for pattern, parts in itertools.groupby(self._parts(), key=operator.itemgetter(1)):
            length = sum(part[0] for part in parts)
            self._verify(offset, length, pattern)
            offset += length

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Length and pattern of what the disk holds, from its start to its end."""
        position = 0
        for offset, (length, pattern) in sorted(self.written.items()):
            if position < offset:
                yield offset - position, 0
            yield length, pattern
            position = offset + length
        yield CAPACITY_BYTES - position, 0

    def _verify(self, offset: int, length: int, pattern: int) -> None:
        while length > 0:
            part = min(length, 32 * MEBIBYTE)
            qemu_io.verify_pattern(
                self.host, self.name, offset=offset, length=part, pattern=pattern, device=self.device
            )
            offset, length = offset + part, length - part

    def chain(self, *, inactive: bool = False) -> list[tuple[str, str]]:
        """The disk's layers as (path, format), active layer first; only the first of the inactive XML."""
        document = self.xml(inactive=inactive)
        disk = ET.fromstring(document).find(f"./devices/disk/target[@dev='{self.target}']/..")
        assert disk is not None
        driver = disk.find("driver")
        assert driver is not None
        layers = [(_path(disk), driver.get("type", ""))]
        below = disk.find("backingStore")
        while below is not None and below.find("source") is not None:
            image_format = below.find("format")
            assert image_format is not None
            layers.append((_path(below), image_format.get("type", "")))
            below = below.find("backingStore")
        return layers

    def xml(self, *, inactive: bool = False) -> str:
        """The live XML, or the persistent one."""
        with self.host.domain(self.name) as domain:
            return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0))

    def has_journal(self) -> bool:
        """Whether a migration is at work on it; libvirt keeps the declaration of a namespace when its element goes."""
        return any("diskmigration.dev/journal" in element.tag for element in ET.fromstring(self.xml()).iter())

    def change_journal(self, **changes: object) -> None:
        """Writes some fields of its migration's journal, as an agent that ended before it could write more."""
        options = ["--uri=https://diskmigration.dev/journal/v1/vda", "--key=diskmigration", "--live", "--config"]
        journal = ET.fromstring(self.host.virsh("metadata", self.name, options[0]))
        journal.text = json.dumps({**json.loads(journal.text or ""), **changes})
        self.host.virsh("metadata", self.name, *options, f"--set={ET.tostring(journal, encoding='unicode')}")

    def belong_to(self, namespace: str) -> None:
        """Says in its metadata that its disks are that namespace's to move."""
        options = ("--config", "--live") if self.state() != "shut off" else ("--config",)
        owner = f"--set=<owner namespace='{namespace}'/>"
        self.host.virsh("metadata", self.uuid, f"--uri={OWNER_URI}", "--key=diskmigration", *options, owner)

    def set_source(self, path: str, disk_type: str) -> None:
        """Has the VM, which is off, start from another volume."""
        document = ET.fromstring(self.xml(inactive=True))
        disk = document.find(f"./devices/disk/target[@dev='{self.target}']/..")
        assert disk is not None
        disk.set("type", disk_type)
        source = disk.find("source")
        assert source is not None
        source.attrib = {"dev" if disk_type == "block" else "file": path}
        with self.host.domain(self.name) as domain:
            domain.connect().defineXML(ET.tostring(document, encoding="unicode"))

    def state(self) -> str:
        """As virsh says it."""
        with self.host.connection() as connection:
            state, _ = connection.lookupByUUIDString(self.uuid).state()
        return _STATES[state]


def _path(element: ET.Element) -> str:
    source = element.find("source")
    assert source is not None
    return source.get("file") or source.get("dev") or ""


def make_machine(
    host: LibvirtHost,
    domain: Domain,
    *,
    chain: int = 1,
    base_format: str = "qcow2",
    name: str | None = None,
    volume_names: Sequence[str] = (),
    volume_bytes: int = 64 * MEBIBYTE,
    target_options: str = "",
    devices: str = "",
    below: tuple[Path, str] | None = None,
    start: bool = True,
) -> Machine:
    """A VM with one disk of `chain` volumes, each with data of its own, on a storage domain.

    `volume_names` are base first, and derive from the VM's name where none are given.
    `below` is the path and format of a volume that the chain stands on; `devices` is XML of more devices.
    """
    name = name or f"vm-{uuid.uuid4().hex[:8]}"
    machine = Machine(host, name, str(uuid.uuid4()), [])
    volume_names = volume_names or [f"{name}-{position}" for position in range(chain)]
    image_format = _make_chain(machine, domain, volume_names, base_format, volume_bytes, below)
    define(machine, domain, image_format, target_options=target_options, devices=devices)
    if start:
        with host.connection() as connection:
            connection.lookupByUUIDString(machine.uuid).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    return machine


def define(machine: Machine, domain: Domain, image_format: str, *, target_options: str = "", devices: str = "") -> None:
    """Defines a VM whose disk is the last of its volumes; the document stays beside the volumes, as UUID.xml."""
    disk = _disk(machine, domain, image_format, target_options)
    document = f"""<domain type='qemu'><name>{escape(machine.name, _KEPT)}</name><uuid>{machine.uuid}</uuid>
        <memory unit='MiB'>32</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>
        <devices>{disk}{devices}</devices></domain>"""
    (domain.directory / f"{machine.uuid}.xml").write_text(document)
    with machine.host.connection() as connection:
        connection.defineXML(document)


def add_disk(machine: Machine, domain: Domain, *, target: str = "vdb", chain: int = 1) -> Machine:
    """Another disk for a VM that is shut off, as a machine of its own with the same name."""
    other = Machine(machine.host, machine.name, machine.uuid, [], target=target)
    volume_names = [f"{machine.name}-{target}-{position}" for position in range(chain)]
    image_format = _make_chain(other, domain, volume_names, "qcow2", 64 * MEBIBYTE, None)
    path = domain.directory / f"{machine.name}-{target}.xml"
    path.write_text(_disk(other, domain, image_format, ""))
    machine.host.virsh("attach-device", machine.name, str(path), "--config")
    return other


def _make_chain(
    machine: Machine,
    domain: Domain,
    volume_names: Sequence[str],
    base_format: str,
    volume_bytes: int,
    below: tuple[Path, str] | None,
) -> str:
    """Makes the volumes; returns the format of the active layer."""
    image_format = base_format
    for position, name in enumerate(volume_names):
        image_format = base_format if position == 0 else "qcow2"
        size = CAPACITY_BYTES if image_format == "raw" else volume_bytes
        path = domain.make_volume(name, size)
        _format(path, image_format, below, is_block=domain.disk_type == "block")
        offset = position * 2 * LAYER_BYTES
        _run("qemu-io", "-f", image_format, "-c", f"write -P {position + 1} {offset} {LAYER_BYTES}", str(path))
        machine.written[offset] = (LAYER_BYTES, position + 1)
        machine.volumes.append(path)
        below = (path, image_format)
    return image_format


def _format(path: Path, image_format: str, below: tuple[Path, str] | None, *, is_block: bool) -> None:
    if image_format == "raw" and is_block:
        return
    backing = ["-u", "-b", str(below[0]), "-F", below[1]] if below is not None else []
    _run("qemu-img", "create", "-q", "-f", image_format, *backing, str(path), str(CAPACITY_BYTES))


def _disk(machine: Machine, domain: Domain, image_format: str, target_options: str) -> str:
    source = "dev" if domain.disk_type == "block" else "file"
    path = quoteattr(str(machine.volumes[-1]), _KEPT)
    return f"""<disk type='{domain.disk_type}' device='disk'>
        <driver name='qemu' type='{image_format}' cache='none' io='native' error_policy='enospace' discard='unmap'/>
        <source {source}={path}/><target dev='{machine.target}' bus='virtio'/>{target_options}
      </disk>"""


def remove_machine(machine: Machine) -> None:
    """Ends the VM and forgets it; its volumes are left to the caller."""
    with machine.host.connection() as connection:
        domain = connection.lookupByUUIDString(machine.uuid)
        if domain.isActive():
            domain.destroy()
        domain.undefineFlags(
            libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        )


def empty(domain: Domain, *, volumes: Collection[str] | None = None) -> None:
    """Detaches and removes the volumes of these names, or every one, of a domain in a directory, whoever made it."""

    def goes(path: Path) -> bool:
        return volumes is None or path.name in volumes

    loop_devices.detach(domain.root, only=goes)
    for entry in domain.root.rglob("*"):
        if goes(entry) and not entry.is_dir():
            entry.unlink()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout
