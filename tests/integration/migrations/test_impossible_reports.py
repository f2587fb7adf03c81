"""What libvirt reports of a volume and cannot be: nothing is extended and nobody pivots on it, and it is said."""

import os
import subprocess
from collections.abc import Callable

from tests.integration.migrations.growth import free_bytes, size_bytes, synchronized
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import WATERMARK_BYTES, Stack, wait_until


def test_a_volume_that_has_shrunk_stalls_the_migration_until_it_is_whole_again(
    stack: Stack, machines: Callable[..., Machine]
) -> None:
    machine = machines("loop-a")
    [volume] = machine.volumes
    migration = synchronized(stack, machine, "file-b", strategy="Direct")
    machine.write(offset=20 * MEBIBYTE, length=MEBIBYTE, pattern=9)
    whole = size_bytes(volume)
    shrunk = whole - free_bytes(machine, str(volume)) // MEBIBYTE * MEBIBYTE + WATERMARK_BYTES // 2

    _resize(stack, machine, shrunk)
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

    _resize(stack, machine, whole)
    migration.succeed()
    assert migration.condition("Stalled")["status"] == "False"
    machine.verify()


def test_a_stalled_migration_can_be_cancelled(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("loop-a")
    migration = synchronized(stack, machine, "file-b", strategy="Direct")
    _resize(stack, machine, 48 * MEBIBYTE)
    wait_until(lambda: migration.condition("Stalled")["status"] == "True", "it says that it is stalled")

    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")
    machine.verify()


def _resize(stack: Stack, machine: Machine, to_bytes: int) -> None:
    """Behind everybody's back."""
    [device] = machine.volumes
    os.truncate(stack.domains["loop-a"].root / f"{machine.name}-0", to_bytes)
    subprocess.run(["losetup", "--set-capacity", str(device)], check=True)
