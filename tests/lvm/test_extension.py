"""Thin logical volumes stay ahead of what writes to them; the sizes are those that lvm2 and the kernel tell."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.integration.migrations.growth import (
    finish,
    is_in_chunks,
    size_bytes,
    synchronized,
    total,
    watched,
    write_until_there_is_room,
)
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.moves import assert_moved
from tests.integration.migrations.stack import CHUNK_BYTES, NODE, Stack
from tests.integration.migrations.volumes import made_volume
from tests.lvm.groups import run
from tests.lvm.wrappers import Wrappers
from tests.lvm.writing import STEP_BYTES, write
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]
Lvs = Callable[[str], dict[str, int]]


def test_a_thin_volume_grows_with_no_migration_at_all(stack: Stack, machines: Machines, lvs: Lvs) -> None:
    machine = machines("lvm-a", volume_bytes=16 * MEBIBYTE)
    volume = machine.volumes[0]
    before = lvs("before the guest writes")

    with watched(volume) as grown:
        write(machine, volume, mebibytes=24)
        wait_until(lambda: len(grown) >= 2, "it grew twice")

    after = lvs("after the guest has written 24 MiB")
    name = f"lvm-a/{volume.name}"
    assert is_in_chunks(grown, CHUNK_BYTES)
    assert after[name] - before[name] == total(grown)
    machine.verify()


def test_a_volume_that_was_not_handed_over_is_not_extended(stack: Stack, machines: Machines, lvs: Lvs) -> None:
    machine = machines("lvm-a", volume_bytes=16 * MEBIBYTE)
    volume = machine.volumes[0]
    name = f"lvm-a/{volume.name}"
    run("lvchange", "--deltag", "diskmigration.dev", name)
    before = lvs("without the tag")

    machine.write(offset=30 * MEBIBYTE, length=STEP_BYTES, pattern=9)
    wait_until(lambda: f"lvchange --addtag diskmigration.dev {name}" in log(stack), "the agent says what to do")
    assert lvs("still without the tag") == before
    machine.verify()


@contextmanager
def writing_at_full_speed(machine: Machine, *, start: int, length: int) -> Iterator[None]:
    """Writes all of it beside the block, each MiB as soon as the one before is written; the end waits for it."""

    def write_all() -> None:
        for offset in range(start, start + length, MEBIBYTE):
            pattern = offset // (16 * MEBIBYTE) + 1
            write_until_there_is_room(machine, offset=offset, length=MEBIBYTE, pattern=pattern)

    with ThreadPoolExecutor(max_workers=1) as executor:
        writer = executor.submit(write_all)
        yield
        writer.result()


def test_the_extension_races_a_writer_at_full_speed(stack: Stack, machines: Machines, lvs: Lvs) -> None:
    machine = machines("lvm-a")
    lvs("before")
    with writing_at_full_speed(machine, start=20 * MEBIBYTE, length=64 * MEBIBYTE):
        migration = stack.migrate(machine, "lvm-b")
        # A writer that QEMU does not pause at the end of the source may cost the mirror an attempt.
        migration.succeed(seconds=120)
    lvs("after")
    machine.verify()
    assert_moved(stack, machine, "lvm-a", "lvm-b", migration.uid, length=1)


def test_a_destination_group_that_hangs_does_not_stop_the_guest(
    stack: Stack, machines: Machines, wrappers: Wrappers
) -> None:
    machine = machines("lvm-a")
    migration = synchronized(stack, machine, "lvm-b", strategy="Direct")
    source = machine.volumes[0]
    mirror = stack.domains["lvm-b"].root / made_volume(migration.uid, 0)
    size = size_bytes(mirror)

    with wrappers.held("lvextend", "lvm-b"), watched(source) as grown:
        write(machine, source, mebibytes=60)
        assert size_bytes(mirror) == size

    assert grown
    finish(migration, machine)


def test_a_destination_group_that_runs_full_does_not_stop_the_guest(
    stack: Stack, machines: Machines, lvs: Lvs, filler: Callable[[int], None]
) -> None:
    machine = machines("lvm-a")
    migration = synchronized(stack, machine, "lvm-small", strategy="Direct")
    source = machine.volumes[0]
    filler(0)

    write(machine, source, mebibytes=60)

    assert migration.wait_for_phase("Failed")["failure"]["reason"] == "DestinationFull"
    assert {name for name in lvs("after") if name.startswith("lvm-small/")} == {"lvm-small/somebody-elses"}
    machine.verify()


def test_an_extension_that_fails_once_is_tried_again(
    stack: Stack, machines: Machines, lvs: Lvs, wrappers: Wrappers
) -> None:
    machine = machines("lvm-a", volume_bytes=16 * MEBIBYTE)
    volume = machine.volumes[0]
    before = lvs("before")[f"lvm-a/{volume.name}"]
    wrappers.fail_once("lvextend")

    machine.write(offset=30 * MEBIBYTE, length=STEP_BYTES, pattern=9)
    wait_until(lambda: wrappers.has_failed("lvextend"), "lvextend failed")
    wait_until(lambda: lvs("after the failure")[f"lvm-a/{volume.name}"] > before, "it grew nevertheless")
    machine.verify()


def test_a_volume_of_a_full_group_grows_as_soon_as_there_is_room(
    stack: Stack, machines: Machines, lvs: Lvs, filler: Callable[[int], None]
) -> None:
    machine = machines("lvm-small", volume_bytes=16 * MEBIBYTE)
    volume = machine.volumes[0]
    filler(0)
    before = lvs("the group is full")[f"lvm-small/{volume.name}"]

    machine.write(offset=30 * MEBIBYTE, length=STEP_BYTES, pattern=9)
    wait_until(lambda: "insufficient free space" in log(stack).lower(), "the agent says why it does not grow")
    assert lvs("still full")[f"lvm-small/{volume.name}"] == before
    run("lvremove", "--yes", "lvm-small/somebody-elses")

    wait_until(lambda: lvs("with room again")[f"lvm-small/{volume.name}"] > before, "it grew")
    write(machine, volume, mebibytes=16)
    machine.verify()


def log(stack: Stack) -> str:
    """What the agent has said so far."""
    assert NODE in stack.agent.log.name
    return stack.agent.log.read_text()
