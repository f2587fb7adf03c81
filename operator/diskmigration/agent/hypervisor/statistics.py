"""Block statistics by blockdev index: how far each open volume was written, and the thresholds that tell in time.

Source: virConnectGetAllDomainStats with BLOCK and BACKING; virDomainSetBlockThreshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import libvirt

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.hypervisor.errors import DomainGoneError, answered
from diskmigration.api.errors import Reason

_GROUPS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BLOCK


@dataclass(frozen=True)
class LayerStatistics:
    """One open volume; sizes in bytes.

    `allocated_bytes` is the highest offset written since it was opened, 0 until the first write; for a qcow2 in a file
    libvirt gives the file's size instead. `threshold_bytes` is the armed threshold, 0 when none is.
    """

    target: str
    index: int
    path: str
    allocated_bytes: int
    capacity_bytes: int
    physical_bytes: int
    threshold_bytes: int

    @property
    def device(self) -> str:
        """The volume as libvirt's calls name it, `vda[2]`."""
        return f"{self.target}[{self.index}]"


@dataclass(frozen=True)
class DomainStatistics:
    """Every open volume of one running VM; `run` is libvirt's id of this run, another one each time it starts.

    `state` is libvirt's virDomainState with its reason, as numbers.
    """

    uuid: str
    run: int
    layers: tuple[LayerStatistics, ...]
    state: tuple[int, int] = (0, 0)

    def layer(self, path: str, target: str) -> LayerStatistics | None:
        """The open volume at that path under that disk, or None."""
        return next((layer for layer in self.layers if layer.path == path and layer.target == target), None)

    def written_up_to(self, device: str, offset_bytes: int) -> "DomainStatistics":
        """As they are after a write up to there, of which an event told: the threshold is spent with it."""
        layers = (
            replace(layer, allocated_bytes=max(layer.allocated_bytes, offset_bytes), threshold_bytes=0)
            if layer.device == device
            else layer
            for layer in self.layers
        )
        return replace(self, layers=tuple(layers))


def parse(uuid: str, run: int, values: Mapping[str, object]) -> DomainStatistics:
    """Reads libvirt's flat `state.field` and `block.N.field` keys; a volume without a blockdev index is left out."""

    def whole(key: str) -> int:
        value = values.get(key, 0)
        return value if isinstance(value, int) else 0

    def number(position: int, field: str) -> int:
        return whole(f"block.{position}.{field}")

    layers = tuple(
        LayerStatistics(
            target=str(values.get(f"block.{position}.name", "")),
            index=number(position, "backingIndex"),
            path=str(values.get(f"block.{position}.path", "")),
            allocated_bytes=number(position, "allocation"),
            capacity_bytes=number(position, "capacity"),
            physical_bytes=number(position, "physical"),
            threshold_bytes=number(position, "threshold"),
        )
        for position in range(whole("block.count"))
        if f"block.{position}.backingIndex" in values
    )
    return DomainStatistics(uuid, run, layers, state=(whole("state.state"), whole("state.reason")))


def of_domain(domain: Domain) -> DomainStatistics:
    """The statistics of one running VM.

    Raises:
        DomainGoneError: it does not run.
    """
    with domain.call("reading the VM's block statistics", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        if not handle.isActive():
            # libvirtd would open the disk of one that is shut off, and wait for ever where that is a FIFO.
            raise DomainGoneError(f"The VM {domain.uuid} does not run.")
        records = handle.connect().domainListGetStats(
            [handle], _GROUPS, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING
        )
        return parse(domain.uuid, handle.ID(), records[0][1] if records else {})


def of_running_domains(connection: Connection) -> tuple[DomainStatistics, ...]:
    """The statistics of every running VM, in one call; one that is busy with another call is not waited for."""
    handle = connection.get()
    flags = (
        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING
        | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    with answered("reading the block statistics of all VMs", failure=Reason.HYPERVISOR_UNAVAILABLE):
        records = handle.getAllDomainStats(_GROUPS, flags)
        return tuple(parse(domain.UUIDString(), domain.ID(), values) for domain, values in records)


def set_threshold(domain: Domain, *, device: str, offset_bytes: int) -> None:
    """Arms a one-shot event for the first later write that ends past the offset; 0 disarms."""
    with domain.call(f"arming the threshold of {device}", failure=Reason.HYPERVISOR_UNAVAILABLE) as handle:
        handle.setBlockThreshold(device, offset_bytes, 0)
