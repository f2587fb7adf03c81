"""Read VMs on one connection, whose handles of VMs are kept: a read of a VM is one or two calls.

Only the poll of the statistics waits for QEMU. Any call may wait for libvirtd's lock of a VM, which libvirtd holds
while it reads a chain from a storage that hangs.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import libvirt

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import STATES
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.errors import DomainGoneError, answered
from diskmigration.agent.hypervisor.statistics import Rows, of_running_domains, of_those_that_run
from diskmigration.api.errors import Reason
from diskmigration.api.libvirt_host import VirtualMachineState


@dataclass(frozen=True)
class VmReading:
    """A VM's state and its live XML, or the persistent one of a VM that is off."""

    state: VirtualMachineState
    description: DomainDescription


class VmReader:
    """Not thread-safe: one read at a time, on a connection of its own."""

    def __init__(self, uri: str) -> None:
        """`uri` as libvirt writes it; the first read opens the connection."""
        self._connection = Connection(uri)
        self._opened: libvirt.virConnect | None = None
        self._handles: dict[str, libvirt.virDomain] = {}

    def names(self) -> Mapping[str, str]:
        """Return the name of every VM of the node, running or defined, by its uuid.

        Raises:
            HypervisorUnavailableError: libvirtd does not answer.
        """
        connection = self._connect()
        with answered("listing the node's VMs", failure=Reason.HYPERVISOR_UNAVAILABLE):
            return {handle.UUIDString(): handle.name() for handle in connection.listAllDomains(0)}

    def read(self, uuid: str) -> VmReading:
        """Read one VM.

        Raises:
            DomainGoneError: there is no such VM.
            MigrationError: libvirt did not say.
        """
        with self._handle(uuid) as handle, answered(f"reading the VM {uuid}", failure=Reason.HYPERVISOR_UNAVAILABLE):
            state = STATES.get(handle.state()[0], VirtualMachineState.UNKNOWN)
            return VmReading(state, domain_xml.parse(handle.XMLDesc(0)))

    def statistics(self) -> Rows:
        """Return the statistics of every running VM; see `of_running_domains`.

        It waits for the first VM whose QEMU does not answer. A second call at the same time passes that VM over. Every
        such call waits for a VM whose lock libvirtd holds.

        Raises:
            MigrationError: libvirt did not say.
        """
        return of_running_domains(self._connection)

    def statistics_of(self, uuids: Collection[str]) -> Rows:
        """Return the statistics of those of the VMs that run, and wait for no other VM; libvirtd is asked in any case.

        Raises:
            MigrationError: libvirt did not say.
        """
        handles = []
        for uuid in uuids:
            with suppress(DomainGoneError), self._handle(uuid) as handle:
                handles.append(handle)
        if not handles:
            # Nobody would be asked, which must not count as an answer of a libvirtd that hangs.
            self.versions()
        return of_those_that_run(self._connect(), handles)

    def versions(self) -> tuple[str, str]:
        """Return the versions of libvirt and of QEMU.

        Raises:
            HypervisorUnavailableError: libvirtd does not answer.
        """
        return self._connection.versions()

    def _connect(self) -> libvirt.virConnect:
        connection = self._connection.get()
        if connection is not self._opened:
            self._opened, self._handles = connection, {}
        return connection

    @contextmanager
    def _handle(self, uuid: str) -> Iterator[libvirt.virDomain]:
        connection = self._connect()
        try:
            if uuid not in self._handles:
                with answered(f"looking up the VM {uuid}", failure=Reason.HYPERVISOR_UNAVAILABLE):
                    self._handles[uuid] = connection.lookupByUUIDString(uuid)
            yield self._handles[uuid]
        except Exception:
            # It may be gone, and defined again later.
            self._handles.pop(uuid, None)
            raise
