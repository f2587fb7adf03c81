"""As whom libvirt runs QEMU. Source: the DAC labels in libvirt's domain and capabilities XML."""

import xml.etree.ElementTree as ET
from weakref import WeakKeyDictionary

import libvirt

from diskmigration.agent.credentials import Credentials, parse_label
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.errors import answered
from diskmigration.api.errors import Reason

# By connection: libvirt may look at each of its QEMUs again to answer, and reads its configuration at its start alone.
_known: WeakKeyDictionary[libvirt.virConnect, Credentials | None] = WeakKeyDictionary()


def of_domain(domain: Domain) -> Credentials | None:
    """Return as whom the VM's QEMU runs, or would run; None where libvirt does not say it by number.

    Raises:
        HypervisorUnavailableError, DomainGoneError.
    """
    with domain.call("reading the VM's XML", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        label = label_in_domain(handle.XMLDesc(0))
    return parse_label(label) if label is not None else of_host(domain.connection)


def of_host(connection: Connection) -> Credentials | None:
    """Return as whom QEMU runs where a VM's XML says nothing else; None where libvirt does not say it by number.

    Raises:
        HypervisorUnavailableError: libvirtd does not answer.
    """
    opened = connection.get()
    if opened not in _known:
        doing = "asking libvirt for its capabilities"
        with connection.lend() as handle, answered(doing, failure=Reason.HYPERVISOR_UNAVAILABLE):
            label = label_in_capabilities(handle.getCapabilities())
        _known[opened] = parse_label(label) if label is not None else None
    return _known[opened]


def label_in_domain(document: str) -> str | None:
    """Return the DAC label of a VM that runs, or whose XML sets one; else None."""
    return _text(ET.fromstring(document).find("seclabel[@model='dac']/label"))  # noqa: S314 - libvirt's own output


def label_in_capabilities(document: str) -> str | None:
    """Return the DAC label that libvirt gives to a VM of either kind, or None."""
    for model in ET.fromstring(document).findall("host/secmodel"):  # noqa: S314 - libvirt's own output
        if _text(model.find("model")) == "dac":
            return _text(model.find("baselabel"))
    return None


def _text(element: ET.Element | None) -> str | None:
    return element.text if element is not None else None
