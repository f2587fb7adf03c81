"""Tell the runs of a VM's QEMU apart: a VM that was shut off and started again is another run.

A mark stands in the live XML alone, so a VM that starts has none. Where a live XML was defined again, the VM starts
with a mark that names another number than libvirt has given to the new run. `DomainDescription.run` has the mark.
"""

from uuid import uuid4

import libvirt

from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import RUN_URI
from diskmigration.api.errors import Reason

_PREFIX = "diskmigrationrun"


def mark(domain: Domain) -> None:
    """Mark the VM's present run.

    Source: virDomainSetMetadata with AFFECT_LIVE.

    Raises:
        HypervisorUnavailableError, DomainGoneError: nothing was marked.
    """
    with domain.qemu_call("marking the VM's run", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        _set(handle, f"<run>{handle.ID()}-{uuid4()}</run>")


def unmark(domain: Domain) -> None:
    """Remove the mark of the VM's present run, if it runs and has one."""
    if domain.is_active() and domain.metadata(RUN_URI) is not None:
        with domain.qemu_call("removing the mark of the VM's run", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
            _set(handle, None)


def _set(handle: libvirt.virDomain, element: str | None) -> None:
    kind, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
    handle.setMetadata(kind, element, _PREFIX, RUN_URI, live)
