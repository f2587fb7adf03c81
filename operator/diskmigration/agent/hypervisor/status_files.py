"""Tell which VMs run by libvirtd's own files, for when libvirtd lists none: it does not while it holds a VM's lock."""

import logging
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path

from diskmigration.agent.hypervisor.connection import sockets_of

_log = logging.getLogger(__name__)


def running_vms(uri: str) -> Mapping[str, str]:
    """Return the names of the VMs that run, by uuid; a file that cannot be read is logged and passed over.

    Source: virDomainObjSave in libvirt's domain_conf.c; the directory is `stateDir` in qemu_conf.c.
    """
    directories = dict.fromkeys(socket.parent / "qemu" for socket in sockets_of(uri))
    return names_in(file for directory in directories for file in directory.glob("*.xml"))


def names_in(files: Iterable[Path]) -> Mapping[str, str]:
    """Return the names of the VMs of these status files, by uuid."""
    names = {}
    for file in files:
        try:
            document = ET.fromstring(file.read_bytes())  # noqa: S314 - libvirtd wrote it, and only root may
        except (OSError, ET.ParseError) as error:
            _log.warning("a status file of libvirt's was passed over", extra={"path": str(file), "error": str(error)})
            continue
        uuid, name = document.findtext("domain/uuid"), document.findtext("domain/name")
        if document.tag == "domstatus" and uuid and name:
            names[uuid] = name
    return names
