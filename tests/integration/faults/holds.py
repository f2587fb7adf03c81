"""Holds an agent's migrations at a moment, until they are let go."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holds:
    """The directory that the agent looks into, and which has a file for each moment that is armed or reached."""

    directory: Path

    def arm(self, moment: str) -> None:
        """The next migration that comes there waits; `moment` is as in `Pivot.midway`."""
        (self.directory / f"{moment}.armed").touch()

    def is_reached(self, moment: str) -> bool:
        """Whether one is there."""
        return (self.directory / f"{moment}.reached").exists()

    def release_one(self, moment: str) -> None:
        """Lets the one that is there go on; what else was armed stays so."""
        (self.directory / f"{moment}.reached").unlink()

    def release(self) -> None:
        """Lets all of them go on, and nobody waits any more."""
        for file in self.directory.iterdir():
            file.unlink()
