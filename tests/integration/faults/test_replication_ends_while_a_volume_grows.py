"""A replication is pivoted, or fails, in the midst of an extension, which then gets done, or fails, or finds no volume.

vdsm's notes on its extender list these as cases that it has never tried.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.faults.held_agent import EXTENSION
from tests.integration.faults.holds import Holds
from tests.integration.migrations.growth import free_bytes, size_bytes, synchronized
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import WATERMARK_BYTES, Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]


@dataclass(frozen=True)
class Replication:
    """In step, and its volume on block storage held in the midst of an extension; that volume's file."""

    stack: Stack
    machine: Machine
    migration: Migration
    file: Path

    def end(self, *, is_pivoted: bool) -> None:
        """Ends it, and waits for the migration's end."""
        if is_pivoted:
            self.migration.patch({"cutover": {"policy": "Automatic"}})
            self.migration.succeed()
        else:
            self.machine.host.virsh("blockjob", self.machine.name, "vda", "--abort")
            assert self.migration.wait_for_phase("Failed")["failure"]["reason"] == "BlockJobFailed"
        wait_until(lambda: not self.machine.has_journal(), "the disk is free")

    def has_failed_to_grow(self) -> bool:
        """Whether the agent has told that the volume could not be extended."""
        said = self.stack.agent.log.read_text().splitlines()
        return any("could not be extended" in line and self.file.name in line for line in said)


def held_in_an_extension(
    stack: Stack, machines: Machines, holds: Holds, source: Domain, destination: Domain
) -> Replication:
    machine = machines(source)
    migration = synchronized(stack, machine, destination.name, strategy="Direct", backoffLimit=0)
    is_mirror = destination.kind == "loop"
    path = destination.path(made_volume(migration.uid, 0)) if is_mirror else machine.volumes[0]
    file = (destination if is_mirror else source).root / (path.name if is_mirror else f"{machine.name}-0")
    holds.arm(EXTENSION)
    offset = 20 * MEBIBYTE
    while not holds.is_reached(EXTENSION) and (free := free_bytes(machine, str(path))) > WATERMARK_BYTES - MEBIBYTE:
        machine.write(offset=offset, length=MEBIBYTE, pattern=offset // MEBIBYTE)
        offset += MEBIBYTE
        wait_until(lambda: holds.is_reached(EXTENSION) or free_bytes(machine, str(path)) < free, "the mirror keeps up")
    wait_until(lambda: holds.is_reached(EXTENSION), "it is being extended")
    return Replication(stack, machine, migration, file)


@contextmanager
def immutable(file: Path, *, if_so: bool) -> Iterator[None]:
    """Nobody can grow the file, nor write to it."""
    if not if_so:
        yield
        return
    subprocess.run(["chattr", "+i", file], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", file], check=True)


@pytest.mark.parametrize("fails", first_by_day([False, True]), ids=["extended", "extension-fails"])
@pytest.mark.parametrize("is_pivoted", first_by_day([True, False]), ids=["mirror-pivoted", "source-aborted"])
def test_the_volume_that_the_guest_goes_on_with_grows(
    stack: Stack, holds: Holds, block: Domain, machines: Machines, *, is_pivoted: bool, fails: bool
) -> None:
    file_domain = stack.domains["file-a"]
    source, destination = (file_domain, block) if is_pivoted else (block, file_domain)
    replication = held_in_an_extension(stack, machines, holds, source, destination)
    file = replication.file
    before = size_bytes(file)
    replication.end(is_pivoted=is_pivoted)
    with immutable(file, if_so=fails):
        holds.release()
        if fails:
            wait_until(replication.has_failed_to_grow, "the extension failed")
            assert size_bytes(file) == before
    wait_until(lambda: size_bytes(file) > before, "it grew")
    replication.machine.verify()
    assert (block.files(), file_domain.files()) == ([file.name], [])


@pytest.mark.parametrize("is_pivoted", first_by_day([False, True]), ids=["mirror-aborted", "source-pivoted"])
def test_the_volume_that_was_removed_meanwhile_stays_away(
    stack: Stack, holds: Holds, block: Domain, machines: Machines, *, is_pivoted: bool
) -> None:
    file_domain = stack.domains["file-a"]
    source, destination = (block, file_domain) if is_pivoted else (file_domain, block)
    replication = held_in_an_extension(stack, machines, holds, source, destination)
    left = (
        file_domain.root / made_volume(replication.migration.uid, 0) if is_pivoted else replication.machine.volumes[0]
    )
    replication.end(is_pivoted=is_pivoted)
    assert not replication.file.exists()
    holds.release()
    wait_until(replication.has_failed_to_grow, "the extension found no volume")
    replication.machine.verify()
    assert (block.files(), file_domain.files()) == ([], [left.name])
