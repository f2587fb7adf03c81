"""A guest that writes no faster than there is room."""

from pathlib import Path

from tests.integration.migrations.growth import free_bytes, write_in_steps
from tests.integration.migrations.machines import MEBIBYTE, Machine

STEP_BYTES = 4 * MEBIBYTE
"""A request takes a second in the lane's VM, so that each is larger than elsewhere."""


def write(
    machine: Machine, volume: Path, *, mebibytes: int, start_mebibytes: int = 30, mirrored: str | None = None
) -> None:
    """Writes so much behind what its chain holds, each step when the volume, maybe a mirror, has room for it."""
    write_in_steps(
        machine,
        start=start_mebibytes * MEBIBYTE,
        length=mebibytes * MEBIBYTE,
        free=lambda: free_bytes(machine, volume.name, mirrored=mirrored),
        step=STEP_BYTES,
    )
