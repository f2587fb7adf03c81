"""Every volume that libvirt knows a user of, on this node: VMs as they run and as they are defined, and their records.

What libvirt cannot tell is told as such: a volume of a storage pool that is gone may be any volume.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import libvirt

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError, answered
from diskmigration.agent.hypervisor.source_xml import NamedSource, named_sources
from diskmigration.api.errors import MigrationError, Reason


@dataclass(frozen=True)
class NamedVolume:
    """A volume that somebody needs: `user` as a message names him.

    `format` is "" where none is stated, `is_walked` tells that the user names all below it too, `is_open` that a QEMU
    has it open now, `is_medium` that it lies in a CD-ROM or floppy drive. `obstacle` is why the path cannot be told,
    else "".
    """

    user: str
    path: str
    format: str = ""
    is_walked: bool = False
    is_open: bool = False
    is_medium: bool = False
    obstacle: str = ""


def named_volumes(connection: Connection) -> tuple[NamedVolume, ...]:
    """Return what every VM of the node, running or defined, and every record of one names.

    Raises:
        HypervisorUnavailableError: libvirt could not be asked, so nothing is known.
    """
    with connection.lend() as handle:
        with answered("listing the node's VMs and their records", failure=Reason.HYPERVISOR_UNAVAILABLE):
            vms = handle.listAllDomains(0)
            records = _Records(*(_uuids(handle.listAllDomains(flag)) for flag in _WITH_RECORDS))
        return tuple(named for vm in vms for named in _of_vm(connection, vm, records))


_WITH_RECORDS = (
    libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT,
    libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT,
    libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE,
)


@dataclass(frozen=True)
class _Records:
    """The uuids of the VMs that have records of a kind: few have any, and the others are not asked for theirs."""

    with_snapshots: frozenset[str]
    with_checkpoints: frozenset[str]
    with_saved_memory: frozenset[str]


def _uuids(vms: Iterable[libvirt.virDomain]) -> frozenset[str]:
    return frozenset(vm.UUIDString() for vm in vms)


@dataclass(frozen=True)
class _Document:
    user: str
    xml: str
    is_live: bool = False


def _of_vm(connection: Connection, vm: libvirt.virDomain, records: _Records) -> tuple[NamedVolume, ...]:
    uuid = vm.UUIDString()
    try:
        with answered(f"reading the records of the VM {uuid}", failure=Reason.HYPERVISOR_UNAVAILABLE):
            documents = tuple(_documents(vm, records))
        found = [
            _translated(connection, document, source)
            for document in documents
            for source in named_sources(document.xml)
        ]
    except DomainGoneError:
        return ()
    except HypervisorUnavailableError:
        raise
    except (MigrationError, ET.ParseError) as error:
        return (NamedVolume(user=f"the VM {uuid}", path="", obstacle=str(error)),)
    # The definition of a VM that runs names the volume that its QEMU has open.
    opened = {named.path for named in found if named.is_open}
    return tuple(
        NamedVolume(**{**vars(named), "is_open": True}) if named.path and named.path in opened else named
        for named in found
    )


def _documents(handle: libvirt.virDomain, records: _Records) -> Iterator[_Document]:
    """Yield the live XML before the definition: a VM that starts between the two is seen as it is defined."""
    uuid, vm = handle.UUIDString(), f"the VM {handle.name()}"
    live = handle.XMLDesc(0)
    is_live = ET.fromstring(live).get("id") is not None  # noqa: S314 - libvirt's own output
    yield _Document(vm, live, is_live=is_live)
    # libvirt gives the live XML of a VM that is not defined.
    yield _Document(vm, handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    if uuid in records.with_snapshots:
        for snapshot in handle.listAllSnapshots(0):
            yield _Document(f"the snapshot {snapshot.getName()} of {vm}", snapshot.getXMLDesc(0))
    if uuid in records.with_checkpoints:
        for checkpoint in handle.listAllCheckpoints(0):
            yield _Document(f"the checkpoint {checkpoint.getName()} of {vm}", checkpoint.getXMLDesc(0))
    # One that is off may have been saved since the records were listed, with volumes that its definition does not name.
    if (uuid in records.with_saved_memory or not is_live) and handle.hasManagedSaveImage(0):
        yield _Document(f"the saved memory of {vm}", handle.managedSaveGetXMLDesc(0))


def _translated(connection: Connection, document: _Document, source: NamedSource) -> NamedVolume:
    path, obstacle = source.path, ""
    if source.pool:
        try:
            path = _path_in_pool(connection, source.pool, source.volume)
        except HypervisorUnavailableError:
            raise
        except MigrationError as error:
            obstacle = error.message
    return NamedVolume(
        user=document.user,
        path=path,
        format=source.format,
        is_walked=document.is_live and source.is_walked,
        is_open=document.is_live,
        is_medium=source.is_medium,
        obstacle=obstacle,
    )


def _path_in_pool(connection: Connection, pool: str, volume: str) -> str:
    doing = f"looking up the volume {volume} of the storage pool {pool}"
    try:
        with connection.lend() as handle, answered(doing, failure=Reason.STORAGE_FAILED):
            return str(handle.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
    except DomainGoneError as error:
        raise MigrationError(Reason.STORAGE_FAILED, error.message) from error
