"""Detect implausible allocation reports. Pure.

A volume with such a report is not extended, and its migration becomes Stalled. Growth on such a report could go on
without end (BZ998443), and the guest may be running on a damaged volume.
"""

from dataclasses import dataclass

from diskmigration.agent.extender.watermark import MOST_IN_FLIGHT_BYTES, ThinVolume, largest_useful_size
from diskmigration.api.errors import MigrationError, Reason

_LASTING_REPORTS = 2
"""An implausible report is told to the user when it comes so often in a row: libvirt may have read one too early."""


@dataclass(frozen=True)
class HighWater:
    """The highest plausible figures of a volume since QEMU opened it; both only ever rise."""

    allocated: int = 0
    physical: int = 0

    def raised_to(self, volume: ThinVolume) -> "HighWater":
        """Return the marks with one more report."""
        return HighWater(max(self.allocated, volume.allocated), max(self.physical, volume.physical))


def why_impossible(volume: ThinVolume, before: HighWater) -> str | None:
    """Return what is wrong with a report that cannot be true, or None.

    A little more than the volume's size is possible: QEMU also counts writes that met the end of the volume.
    """
    if volume.physical <= 0 or volume.capacity <= 0:
        return "a volume or a disk of no size"
    if not 0 <= volume.allocated <= max(volume.physical, largest_useful_size(volume.capacity)) + MOST_IN_FLIGHT_BYTES:
        return f"{volume.allocated} bytes as written to a volume of {volume.physical}"
    if volume.physical < before.physical:
        return f"a volume that has shrunk from {before.physical} to {volume.physical} bytes"
    if volume.allocated < before.allocated:
        return f"{volume.allocated} bytes as written, after it was {before.allocated}"
    return None


@dataclass(frozen=True)
class Plausibility:
    """How the reports of one open volume were judged; `problem` is that of the last `reports` in a row, or None."""

    believed: HighWater = HighWater()
    problem: str | None = None
    reports: int = 0

    @property
    def is_lasting(self) -> bool:
        """Whether the problem came often enough to tell the user."""
        return self.reports >= _LASTING_REPORTS

    def updated(self, volume: ThinVolume) -> "Plausibility":
        """Return the judgement with one more report; an implausible one raises no mark."""
        problem = why_impossible(volume, self.believed)
        if problem is None:
            return Plausibility(self.believed.raised_to(volume))
        return Plausibility(self.believed, problem, self.reports + 1)

    def error(self, path: str) -> MigrationError | None:
        """Return a lasting problem of the volume at that path as an error, or None."""
        if not self.is_lasting:
            return None
        return MigrationError(
            Reason.IMPOSSIBLE_ALLOCATION,
            f"libvirt reports {self.problem}, of {path}, which cannot be. The volume may be damaged: it is not "
            "extended until the report is possible again. Look at the volume and at the guest's file systems.",
        )
