"""Every volume that libvirt knows a user of, on this node: VMs as they run and as they are defined, and their records.

What libvirt cannot tell is told as such: a volume of a storage pool that is gone may be any volume.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

import libvirt

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain, every_domain
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
    return tuple(named for domain in every_domain(connection) for named in _of_domain(connection, domain))


@dataclass(frozen=True)
class _Document:
    user: str
    xml: str
    is_live: bool = False


def _of_domain(connection: Connection, domain: Domain) -> tuple[NamedVolume, ...]:
    try:
        found = [
            _translated(connection, document, source)
            for document in _documents(domain)
            for source in named_sources(document.xml)
        ]
    except DomainGoneError:
        return ()
    except HypervisorUnavailableError:
        raise
    except (MigrationError, ET.ParseError) as error:
        return (NamedVolume(user=f"the VM {domain.uuid}", path="", obstacle=str(error)),)
    # The definition of a VM that runs names the volume that its QEMU has open.
    opened = {named.path for named in found if named.is_open}
    return tuple(
        NamedVolume(**{**vars(named), "is_open": True}) if named.path and named.path in opened else named
        for named in found
    )


def _documents(domain: Domain) -> Iterator[_Document]:
    with domain.call("reading the VM's records", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        vm = f"the VM {handle.name()}"
        yield _Document(vm, handle.XMLDesc(0), is_live=bool(handle.isActive()))
        if handle.isPersistent():
            yield _Document(vm, handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
        for snapshot in handle.listAllSnapshots(0):
            yield _Document(f"the snapshot {snapshot.getName()} of {vm}", snapshot.getXMLDesc(0))
        for checkpoint in handle.listAllCheckpoints(0):
            yield _Document(f"the checkpoint {checkpoint.getName()} of {vm}", checkpoint.getXMLDesc(0))
        if handle.hasManagedSaveImage(0):
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
