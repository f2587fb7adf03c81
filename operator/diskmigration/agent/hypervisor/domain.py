"""One VM by its uuid: every call looks it up again, so that a handle outlives a restart of libvirtd."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt
import libvirt_qemu

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.errors import DomainGoneError, answered
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.libvirt_host import VirtualMachineState

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: VirtualMachineState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: VirtualMachineState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: VirtualMachineState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: VirtualMachineState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: VirtualMachineState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: VirtualMachineState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: VirtualMachineState.SUSPENDED,
}
"""The API's word for each virDomainState."""


@dataclass(frozen=True)
class Domain:
    """A libvirt domain: one method for each of libvirt's calls.

    Methods raise HypervisorUnavailableError and DomainGoneError beside what they name.
    """

    connection: Connection
    uuid: str

    @contextmanager
    def call(self, doing: str, *, failure: Reason) -> Iterator[libvirt.virDomain]:
        """Lend libvirt's own handle for one act; its errors become ours with the given reason."""
        with self.connection.lend() as connection, answered(f"{doing} (VM {self.uuid})", failure=failure):
            yield connection.lookupByUUIDString(self.uuid)

    @contextmanager
    def qemu_call(self, doing: str, *, failure: Reason) -> Iterator[libvirt.virDomain]:
        """As `call`, for what waits for QEMU, or for libvirt's job of the VM, which a call that waits for QEMU has.

        Raises:
            HypervisorUnavailableError: also where the VM is known not to answer, or too many others wait.
        """
        with self.connection.qemu_calls.one(self.uuid), self.call(doing, failure=failure) as domain:
            yield domain

    def state(self) -> VirtualMachineState:
        """Return the VM's state now."""
        with self.call("asking for the VM's state", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            return STATES.get(domain.state()[0], VirtualMachineState.UNKNOWN)

    def is_active(self) -> bool:
        """Return whether it has a QEMU process, or is about to get one."""
        with self.call("asking whether the VM runs", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            return bool(domain.isActive())

    def has_left_node(self) -> bool:
        """Return whether it is off here as it was migrated to another host; a libvirtd that restarts forgets it."""
        with self.call("asking why the VM is off", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            return list(domain.state()) == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED]

    def has_saved_state(self) -> bool:
        """Return whether its memory was saved (`virsh managedsave`) as it was shut off: the state names its disks."""
        with self.call("asking for the VM's saved state", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            return bool(domain.hasManagedSaveImage(0))

    def disks_without_space(self) -> frozenset[str]:
        """Return the target devices on which QEMU met ENOSPC (virDomainGetDiskErrors)."""
        with self.qemu_call("asking for the disks' errors", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            errors = domain.diskErrors(0) or {}
            return frozenset(t for t, error in errors.items() if error == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE)

    def resume(self) -> None:
        """Let a paused VM go on."""
        with self.qemu_call("resuming the VM", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            domain.resume()

    def describe(self) -> domain_xml.DomainDescription:
        """Return the live XML, or the persistent one of a VM that is off."""
        with self.call("reading the VM's XML", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            return domain_xml.parse(domain.XMLDesc(0))

    def is_persistent(self) -> bool:
        """Return whether it is defined, so that a persistent XML exists beside the live one."""
        with self.call("asking whether the VM is persistent", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            return bool(domain.isPersistent())

    def describe_persistent(self) -> domain_xml.DomainDescription | None:
        """Return the XML with which it would start next, or None for a transient VM."""
        with self.call("reading the VM's persistent XML", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            if not domain.isPersistent():
                return None
            return domain_xml.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))

    def persistent_disk(self, target: str) -> str | None:
        """Return the `<disk>` with which the VM would start next; None for a transient VM, or one without it."""
        with self.call("reading the VM's persistent XML", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            if not domain.isPersistent():
                return None
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
            return domain_xml.disk_document(domain.XMLDesc(flags), target)

    def update_persistent_disk(self, document: str) -> None:
        """Replace one `<disk>` of the persistent XML, found by its target; the live VM is not touched.

        Source: virDomainUpdateDeviceFlags with AFFECT_CONFIG alone. libvirt replaces the one disk under the VM's own
        lock, so that what others write to the definition at the same time is not lost.

        Raises:
            MigrationError: PivotFailed.
        """
        with self.qemu_call("mending the disk in the VM's persistent XML", failure=Reason.PIVOT_FAILED) as domain:
            domain.updateDeviceFlags(document, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def path_in_qemu(self, disk: domain_xml.DomainDisk) -> str:
        """Return where QEMU writes to for a disk, asked of QEMU itself; "" if it has no such disk.

        Only for when libvirt cannot be believed: libvirt marks the VM as tainted by it. Source: QMP's query-block.
        """
        with self.qemu_call("asking QEMU for its disks", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": "query-block"}), 0))
        for device in answer["return"]:
            if disk.alias in device.get("qdev", "").split("/") and "inserted" in device:
                return _path_of_image(str(device["inserted"]["image"]["filename"]))
        return ""

    def checkpoints(self) -> dict[str, str]:
        """Return the XML of each checkpoint of the VM by name, without the VM's own XML."""
        with self.call("listing the VM's checkpoints", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
            return {found.getName(): found.getXMLDesc(flags) for found in domain.listAllCheckpoints(0)}

    def snapshots(self) -> dict[str, str]:
        """Return the XML of each snapshot that libvirt keeps of this VM by name."""
        with self.call("listing the VM's snapshots", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            return {found.getName(): found.getXMLDesc(0) for found in domain.listAllSnapshots(0)}

    def metadata(self, uri: str) -> str | None:
        """Return the element of that namespace in the VM's metadata, or None."""
        with self.call("reading the VM's metadata", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            try:
                return str(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, uri, libvirt.VIR_DOMAIN_AFFECT_CURRENT))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                    return None
                raise

    def set_metadata(self, uri: str, prefix: str, element: str | None) -> None:
        """Write the element of that namespace to the live and the persistent XML; None removes it.

        Source: virDomainSetMetadata. It refuses the live XML of a VM that is off, and one that starts takes the
        persistent XML as it is just then: written to while the VM starts or ends, both are written again.
        """
        with self.qemu_call("writing the VM's metadata", failure=Reason.HYPERVISOR_UNAVAILABLE) as domain:
            while True:
                is_active = domain.isActive()
                flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if is_active else 0
                if domain.isPersistent():
                    flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
                try:
                    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, prefix, uri, flags)
                except libvirt.libvirtError as error:
                    is_absent = element is None and error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA
                    if not is_absent and domain.isActive() == is_active:
                        raise
                if domain.isActive() == is_active:
                    return

    def snapshot(self, *, target: str, kind: str, path: str) -> None:
        """Take a disk-only external snapshot of one disk onto an existing qcow2 volume whose backing is the disk's.

        Without QUIESCE: the snapshot is merged again, so nobody reads the state that it froze, and a guest agent may
        refuse, answer never, or answer for a VM that is paused.
        Source: virDomainSnapshotCreateXML with DISK_ONLY, NO_METADATA, ATOMIC, REUSE_EXT.

        Raises:
            MigrationError: SnapshotFailed.
        """
        others = tuple(disk.target for disk in self.describe().disks if disk.target != target)
        document = domain_xml.snapshot_document(target=target, other_targets=others, kind=kind, path=path)
        flags = (
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        )
        with self.qemu_call(f"taking the snapshot {path} of {target}", failure=Reason.SNAPSHOT_FAILED) as domain:
            domain.snapshotCreateXML(document, flags)


def _path_of_image(filename: str) -> str:
    """Return the path of an image that QEMU names by all its options where it has more than a path can say."""
    if not filename.startswith("json:"):
        return filename
    node = json.loads(filename.removeprefix("json:"))
    while "file" in node and not isinstance(node["file"], str):
        node = node["file"]
    return str(node.get("filename", ""))


def every_domain(connection: Connection) -> tuple[Domain, ...]:
    """Return every VM of the node, running or defined."""
    with connection.lend() as handle, answered("listing the node's VMs", failure=Reason.HYPERVISOR_UNAVAILABLE):
        return tuple(Domain(connection, domain.UUIDString()) for domain in handle.listAllDomains(0))


def find(connection: Connection, *, name: str | None, uuid: str | None) -> Domain:
    """Return the VM by name, by uuid, or by both, and then both must match.

    Raises:
        MigrationError: VirtualMachineNotFound.
    """
    try:
        with connection.lend() as handle, answered("looking the VM up", failure=Reason.VIRTUAL_MACHINE_NOT_FOUND):
            found = handle.lookupByUUIDString(uuid) if uuid else handle.lookupByName(name)
            if name and found.name() != name:
                raise MigrationError(
                    Reason.VIRTUAL_MACHINE_NOT_FOUND,
                    f"The VM with uuid {uuid} is named {found.name()!r}, not {name!r}: "
                    "names are reused, so both must match. Correct spec.virtualMachine.",
                )
            return Domain(connection, found.UUIDString())
    except DomainGoneError as error:
        raise MigrationError(
            Reason.VIRTUAL_MACHINE_NOT_FOUND, f"There is no such VM on this node. {error.message}"
        ) from error
