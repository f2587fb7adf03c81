"""What libvirt reports of a volume and cannot be: nothing is extended and nobody pivots on it, and it is said."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from diskmigration.agent.storage import loop_devices
from tests.integration.migrations.growth import (
    finish,
    free_bytes,
    size_bytes,
    synchronized,
    watched,
    write_in_steps,
)
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import WATERMARK_BYTES, Stack
from tests.waiting import wait_until


def test_a_volume_that_has_shrunk_stalls_the_migration_until_it_is_whole_again(
    stack: Stack, machines: Callable[..., Machine]
) -> None:
    machine = machines("loop-a")
    [volume] = machine.volumes
    migration = synchronized(stack, machine, "file-b", strategy="Direct")
    machine.write(offset=20 * MEBIBYTE, length=MEBIBYTE, pattern=9)
    whole = size_bytes(volume)
    shrunk = whole - free_bytes(machine, str(volume)) // MEBIBYTE * MEBIBYTE + WATERMARK_BYTES // 2

    _resize(volume, shrunk)
    wait_until(lambda: migration.condition("Stalled")["status"] == "True", "it says that it is stalled")

    found = migration.condition("Stalled")
    assert found["reason"] == "ImpossibleAllocation"
    assert str(volume) in found["message"]
    assert migration.condition("Reconciling")["status"] == "False"
    assert migration.condition("Succeeded")["status"] == "Unknown"
    migration.patch({"cutover": {"policy": "Automatic"}})
    wait_until(migration.is_observed, "the wish is seen")
    assert migration.phase() == "Synchronized", "nothing pivots away from a volume that may be damaged"
    assert size_bytes(volume) == shrunk, "less than the watermark is free, and still it is not extended"

    _resize(volume, whole)
    migration.succeed()
    assert migration.condition("Stalled")["status"] == "False"
    machine.verify()


@pytest.mark.nightly
def test_a_mirror_that_has_shrunk_does_not_stop_the_guest(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("loop-a")
    [source] = machine.volumes
    migration = synchronized(stack, machine, "loop-b", strategy="Direct")
    [mirror] = (Path(volume["path"]) for volume in migration.status()["destination"]["volumes"])
    whole = size_bytes(mirror)
    _resize(mirror, whole - MEBIBYTE)
    wait_until(lambda: migration.condition("Stalled")["status"] == "True", "it says that it is stalled")
    assert str(mirror) in migration.condition("Stalled")["message"]

    # Past the source's threshold, and not to the end of either volume.
    length = free_bytes(machine, str(source)) - WATERMARK_BYTES // 2
    with watched(source) as grown:
        write_in_steps(machine, start=20 * MEBIBYTE, length=length, free=lambda: free_bytes(machine, str(source)))
        wait_until(lambda: bool(grown), "the source has grown")
    assert size_bytes(mirror) == whole - MEBIBYTE

    _resize(mirror, whole)
    finish(migration, machine)


def test_a_stalled_migration_can_be_cancelled(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("loop-a")
    migration = synchronized(stack, machine, "file-b", strategy="Direct")
    [volume] = machine.volumes
    _resize(volume, 48 * MEBIBYTE)
    wait_until(lambda: migration.condition("Stalled")["status"] == "True", "it says that it is stalled")

    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")
    machine.verify()


def _resize(device: Path, to_bytes: int) -> None:
    """Behind everybody's back."""
    backing = loop_devices.backing_of(device)
    assert backing is not None
    os.truncate(backing.shown_as, to_bytes)
    subprocess.run(["losetup", "--set-capacity", str(device)], check=True)
