"""One thin volume that QEMU has open: what libvirt reports of it now, and what is known of it over time. Pure."""

from dataclasses import dataclass, field, replace

from diskmigration.agent.extender import watermark, write_rate
from diskmigration.agent.extender.plausibility import Plausibility
from diskmigration.agent.extender.write_rate import WriteRate
from diskmigration.agent.hypervisor.statistics import LayerStatistics
from diskmigration.agent.storage.domains import OpenDomain


@dataclass(frozen=True)
class OpenVolume:
    """A thin volume on block storage that a running VM, its mirror or its merge writes to, by one report."""

    statistics: LayerStatistics
    domain: OpenDomain
    volume: str
    thin: watermark.ThinVolume

    @property
    def device(self) -> str:
        """The volume by libvirt's name, `vda[2]`, which does not come again while the VM runs."""
        return self.statistics.device

    @property
    def path(self) -> str:
        """Where QEMU finds the volume."""
        return self.thin.path

    @property
    def free(self) -> int:
        """How much the guest can write until the volume is full, in bytes."""
        return self.thin.physical - self.thin.allocated


@dataclass(frozen=True)
class ArmedThreshold:
    """A write past `offset` sends an event since the time `at`; 0 arms nothing."""

    offset: int
    at: float


@dataclass(frozen=True)
class VolumeHistory:
    """What is known of one open volume over time; `storage_domain` and `head_room` are those that are in force."""

    path: str
    write_rate: WriteRate
    plausibility: Plausibility = field(default_factory=Plausibility)
    armed: ArmedThreshold | None = None
    storage_domain: str = ""
    head_room: int = 0

    @staticmethod
    def begin(path: str, *, at: float) -> "VolumeHistory":
        """Return the history of a volume of which nothing was reported yet."""
        return VolumeHistory(path, WriteRate(at, 0))

    def reported(self, volume: OpenVolume, *, at: float) -> "VolumeHistory":
        """Return the history with one more report; an implausible one leaves nothing to reckon with."""
        plausibility = self.plausibility.updated(volume.thin)
        if plausibility.problem is not None:
            return replace(VolumeHistory.begin(self.path, at=at), plausibility=plausibility)
        rate = self.write_rate.updated(at, volume.thin.allocated)
        return replace(self, plausibility=plausibility, write_rate=rate)

    def written_up_to(self, offset: int, *, at: float) -> "VolumeHistory":
        """Return the history with a write up to that offset."""
        return replace(self, write_rate=self.write_rate.updated(at, offset))

    def rate(self, now: float) -> float:
        """Return how fast the volume fills, in bytes per second."""
        return self.write_rate.rate.now(now)

    def passed_at(self, allocated: int, *, now: float) -> float:
        """Estimate when the threshold was passed, of a volume that is written up to `allocated`."""
        if self.armed is None or self.armed.offset == 0:
            return now
        return write_rate.passed_at(
            allocated=allocated, armed=self.armed.offset, armed_at=self.armed.at, rate=self.rate(now), now=now
        )

    def expected_allocation(self, now: float) -> int:
        """Return how far the volume is probably written by now."""
        return self.write_rate.allocated + int(self.rate(now) * (now - self.write_rate.at))
