"""Block statistics by blockdev index: how far each open volume was written, and the thresholds that tell in time.

Source: virConnectGetAllDomainStats with BLOCK and BACKING; virDomainSetBlockThreshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import libvirt

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.errors import DomainGoneError, answered
from diskmigration.api.errors import Reason

_GROUPS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BLOCK


@dataclass(frozen=True)
class LayerStatistics:
    """One open volume; sizes in bytes, each of them None where libvirt did not give it.

    libvirt leaves all of them out for a QEMU that is busy or does not answer. None is no number: nothing is decided on
    it, and the next answer may have one.

    `allocated_bytes` is the highest offset written since it was opened, 0 until the first write; for a qcow2 in a file
    libvirt gives the file's size instead. `threshold_bytes` is the armed threshold, 0 when none is.
    """

    target: str
    index: int
    path: str
    allocated_bytes: int | None
    capacity_bytes: int | None
    physical_bytes: int | None
    threshold_bytes: int | None

    @property
    def device(self) -> str:
        """The volume as libvirt's calls name it, `vda[2]`."""
        return f"{self.target}[{self.index}]"


@dataclass(frozen=True)
class DomainStatistics:
    """Every open volume of one running VM; `run` is libvirt's id of this run, another one each time it starts.

    `state` is libvirt's virDomainState with its reason, as numbers; None where libvirt did not give it.
    """

    uuid: str
    run: int
    layers: tuple[LayerStatistics, ...]
    state: tuple[int, int] | None = None

    @property
    def has_figures(self) -> bool:
        """Whether QEMU has answered, which gives the figures of all layers at once."""
        return not self.layers or any(layer.allocated_bytes is not None for layer in self.layers)

    @property
    def is_paused_by_io_error(self) -> bool:
        """Whether QEMU had paused the VM over a disk's error."""
        return self.state == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)

    def without_figures(self) -> "DomainStatistics":
        """Return what is known of a VM that was not asked: which layers it had."""
        return replace(
            self,
            layers=tuple(
                replace(row, allocated_bytes=None, capacity_bytes=None, physical_bytes=None, threshold_bytes=None)
                for row in self.layers
            ),
        )

    def layer(self, path: str, target: str) -> LayerStatistics | None:
        """Return the open volume at that path under that disk, or None."""
        return next((layer for layer in self.layers if layer.path == path and layer.target == target), None)

    def written_up_to(self, device: str, offset_bytes: int) -> "DomainStatistics":
        """As they are after a write up to there, of which an event told: the threshold is spent with it."""
        layers = (
            replace(layer, allocated_bytes=max(layer.allocated_bytes or 0, offset_bytes), threshold_bytes=0)
            if layer.device == device
            else layer
            for layer in self.layers
        )
        return replace(self, layers=tuple(layers))


def parse(uuid: str, run: int, values: Mapping[str, object]) -> DomainStatistics:
    """Read libvirt's flat `state.field` and `block.N.field` keys; a volume without a blockdev index is left out.

    Source: qemuDomainGetStatsBlock of libvirt's src/qemu/qemu_driver.c. Without an answer of QEMU it gives a volume's
    name, path and index alone. With one it gives the allocation always, but the threshold only where one is armed.
    """

    def whole(key: str) -> int | None:
        value = values.get(key)
        return value if isinstance(value, int) else None

    def layer(position: int, index: int) -> LayerStatistics:
        prefix = f"block.{position}."
        allocated = whole(f"{prefix}allocation")
        threshold = whole(f"{prefix}threshold")
        return LayerStatistics(
            target=str(values.get(f"{prefix}name", "")),
            index=index,
            path=str(values.get(f"{prefix}path", "")),
            allocated_bytes=allocated,
            capacity_bytes=whole(f"{prefix}capacity"),
            physical_bytes=whole(f"{prefix}physical"),
            threshold_bytes=0 if threshold is None and allocated is not None else threshold,
        )

    indexes = ((position, whole(f"block.{position}.backingIndex")) for position in range(whole("block.count") or 0))
    layers = tuple(layer(position, index) for position, index in indexes if index is not None)
    state, reason = whole("state.state"), whole("state.reason")
    return DomainStatistics(
        uuid, run, layers, state=(state, reason) if state is not None and reason is not None else None
    )


_RUNNING = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
"""libvirtd would open the disk of a VM that is shut off, and wait for ever where that is a FIFO."""


def of_domain(domain: Domain) -> DomainStatistics:
    """Return the statistics of one running VM.

    Raises:
        DomainGoneError: it does not run.
    """
    with domain.qemu_call("reading the VM's block statistics", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        return _of_one(handle)


def with_description(domain: Domain) -> tuple[DomainDescription, DomainStatistics]:
    """Return the live XML of one running VM, and its statistics as they are after that.

    Raises:
        DomainGoneError: it does not run.
    """
    with domain.qemu_call("reading the VM and its block statistics", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        return domain_xml.parse(handle.XMLDesc(0)), _of_one(handle)


def _of_one(handle: libvirt.virDomain) -> DomainStatistics:
    found = _read(handle.connect().domainListGetStats([handle], _GROUPS, _RUNNING))
    if not found:
        raise DomainGoneError(f"The VM {handle.UUIDString()} does not run.")
    return found[0]


Rows = tuple[DomainStatistics, ...]
"""The statistics of several VMs, one each."""

_RUNNING_NOT_WAITING = _RUNNING | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


def of_running_domains(connection: Connection) -> Rows:
    """Return the statistics of every running VM, in one call; one that is busy with another call is not waited for."""
    handle = connection.get()
    with answered("reading the block statistics of all VMs", failure=Reason.HYPERVISOR_UNAVAILABLE):
        return _read(handle.getAllDomainStats(_GROUPS, _RUNNING_NOT_WAITING))


def of_those_that_run(connection: libvirt.virConnect, handles: Sequence[libvirt.virDomain]) -> Rows:
    """Return the statistics of those of the VMs that run, in one call, which asks for no other VM."""
    with answered("reading the block statistics of some VMs", failure=Reason.HYPERVISOR_UNAVAILABLE):
        return _read(connection.domainListGetStats(list(handles), _GROUPS, _RUNNING_NOT_WAITING)) if handles else ()


def _read(records: Sequence[tuple[libvirt.virDomain, Mapping[str, object]]]) -> Rows:
    return tuple(parse(domain.UUIDString(), domain.ID(), values) for domain, values in records)


def set_threshold(domain: Domain, *, device: str, offset_bytes: int) -> None:
    """Arm a one-shot event for the first later write that ends past the offset; 0 disarms."""
    with domain.qemu_call(f"arming the threshold of {device}", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        handle.setBlockThreshold(device, offset_bytes, 0)
