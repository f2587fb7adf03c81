"""Storage domains that run full on the way: who fills them is somebody else, on a small file system of its own."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.migrations.as_it_was import AsItWas
from tests.integration.migrations.guests import assert_nothing_lost, writing_guest
from tests.integration.migrations.lifecycle import lifecycle_of
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Domain, Machine
from tests.integration.migrations.small import SmallDomain, small_domain
from tests.integration.migrations.stack import Migration, Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]
MakeSmall = Callable[[str], SmallDomain]

KINDS = ["file", "loop"]
SLOW_BYTES = 4 * MEBIBYTE
FEW_RESUMES = 3
"""Of a guest that is resumed once it has room; the file system may show a little before it has any."""


@pytest.fixture
def small(stack: Stack, scratch: Path) -> Iterator[MakeSmall]:
    """Makes a small storage domain of a kind. Asked for before `machines`, whose VMs have to be gone at its end."""
    with ExitStack() as ending:
        yield lambda kind: ending.enter_context(small_domain(stack, scratch, kind))


def big_machine(machines: Machines) -> Machine:
    """One with so much data that a slow copy has a middle."""
    machine = machines("file-a", chain=2)
    machine.write(offset=20 * MEBIBYTE, length=60 * MEBIBYTE, pattern=20)
    return machine


def assert_full(stack: Stack, migration: Migration, before: AsItWas, destination: SmallDomain, phase: str) -> None:
    """It ends with the first attempt and the right reason, and all is as it was; with room it moves."""
    status = migration.wait_for_phase("Failed")
    failure = status["failure"]
    assert (failure["reason"], failure["phase"]) == ("DestinationFull", phase), failure
    assert status["attempts"] == 1, "another copy would only fill it again"
    before.assert_so_again()
    assert before.machine.state() == "paused", "as it was started"
    destination.free()
    _wait_until_room_is_known(stack, destination)
    stack.migrate(before.machine, destination.name).succeed()
    before.machine.verify()


@pytest.mark.parametrize("kind", first_by_day(reversed(KINDS)))
def test_the_destination_runs_full_while_the_chain_is_copied(
    stack: Stack, small: MakeSmall, machines: Machines, kind: str
) -> None:
    destination, machine = small(kind), big_machine(machines)
    before = AsItWas.of(machine, stack.domains["file-a"], destination.domain)
    migration = stack.migrate(machine, destination.name, bandwidth=SLOW_BYTES)
    _wait_until_copying(migration, "CopyingChain")

    destination.fill()

    assert_full(stack, migration, before, destination, "CopyingChain")


@pytest.mark.nightly
@pytest.mark.parametrize("kind", first_by_day(KINDS))
def test_the_destination_runs_full_while_the_active_layer_is_replicated(
    stack: Stack, small: MakeSmall, machines: Machines, kind: str
) -> None:
    destination, machine = small(kind), big_machine(machines)
    before = AsItWas.of(machine, stack.domains["file-a"], destination.domain)
    migration = stack.migrate(machine, destination.name, bandwidth=SLOW_BYTES, strategy="Direct")
    _wait_until_copying(migration, "Replicating")

    destination.fill()

    assert_full(stack, migration, before, destination, "Replicating")


@pytest.mark.parametrize("copy_mode", first_by_day(["Background", "WriteBlocking"]))
@pytest.mark.parametrize("kind", first_by_day(reversed(KINDS)))
def test_the_guest_writes_on_to_a_full_destination_while_it_waits_for_the_cutover(
    stack: Stack, small: MakeSmall, machines: Machines, kind: str, copy_mode: str
) -> None:
    destination, machine = small(kind), big_machine(machines)
    before = AsItWas.of(machine, stack.domains["file-a"], destination.domain)
    migration = stack.migrate(machine, destination.name, cutover={"policy": "Manual"}, copyMode=copy_mode)
    migration.wait_for_phase("Synchronized")

    destination.fill()
    machine.write(offset=90 * MEBIBYTE, length=20 * MEBIBYTE, pattern=90)

    assert_full(stack, migration, before, destination, "Replicating")


@pytest.mark.parametrize("kind", first_by_day(KINDS))
def test_the_source_has_no_room_for_the_snapshot(stack: Stack, small: MakeSmall, machines: Machines, kind: str) -> None:
    source = small(kind)
    machine = machines(source.domain, chain=2)
    before = AsItWas.of(machine, source.domain, stack.domains["file-b"])
    source.fill()

    status = stack.migrate(machine, "file-b", backoffLimit=1).wait_for_phase("Failed")

    assert status["failure"]["reason"] == "SourceFull"
    assert status["attempts"] == 2
    before.assert_so_again()
    stack.migrate(machine, "file-b", strategy="Direct").succeed()
    machine.verify()


@pytest.mark.parametrize("kind", first_by_day(reversed(KINDS)))
def test_a_snapshot_that_cannot_be_merged_back_into_a_full_source_waits_for_room(
    stack: Stack, small: MakeSmall, machines: Machines, kind: str
) -> None:
    source = small(kind)
    machine = machines(source.domain, chain=2)
    before = AsItWas.of(machine, source.domain, stack.domains["file-b"])
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    machine.write(offset=60 * MEBIBYTE, length=20 * MEBIBYTE, pattern=60)
    source.fill()

    migration.patch({"cancel": True})

    wait_until(lambda: f"{source.name} is full" in _message(migration), "it says why it does not go back")
    assert migration.phase() == "CleaningUp"
    source.free()
    migration.wait_for_phase("Cancelled")
    before.assert_so_again()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", first_by_day(KINDS))
def test_a_guest_on_a_full_source_goes_on_when_there_is_room(
    stack: Stack, small: MakeSmall, scratch: Path, kind: str
) -> None:
    """With no migration, while one waits for its cutover, and by the pivot of one that brings it to where room is."""
    source = small(kind)
    with _guest_on(stack, source, scratch) as (guest, machine):
        source.fill()
        _wait_until_paused(machine)
        source.free()
        wait_until(lambda: machine.state() == "running", "the guest goes on")
        guest.console.wait_for_more(20)

        migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
        migration.wait_for_phase("Synchronized")
        source.fill()
        _wait_until_paused(machine)
        stalled = _wait_until_stalled(migration, "SourceFull")
        assert source.name in stalled["message"]
        source.free()
        wait_until(lambda: machine.state() == "running", "the guest goes on")
        wait_until(lambda: migration.condition("Stalled")["status"] == "False", "and the migration says so")
        guest.console.wait_for_more(20)

        source.fill()
        _wait_until_paused(machine)
        migration.patch({"cutover": {"policy": "Automatic"}})
        migration.succeed()
        wait_until(lambda: machine.state() == "running", "the guest goes on at its new home")
        guest.console.wait_for_more(20)
        assert migration.condition("Stalled")["status"] == "False"
        assert_nothing_lost(guest, machine, scratch)


@pytest.mark.parametrize("runs", first_by_day([True, False]), ids=["running", "off"])
def test_a_raw_file_that_was_allocated_ahead_is_not_taken_for_full(
    stack: Stack, small: MakeSmall, machines: Machines, runs: bool
) -> None:
    """What it holds fits into the destination; what it takes of its own storage domain would not."""
    destination = small("file")
    machine = machines("file-a", base_format="raw", start=False)
    [volume] = machine.volumes
    with volume.open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, CAPACITY_BYTES)
    destination.fill(leaving=CAPACITY_BYTES // 2)
    if runs:
        machine.host.virsh("start", machine.name, "--paused")
    stack.migrate(machine, destination.name).succeed()
    if not runs:
        machine.host.virsh("start", machine.name, "--paused")
    machine.verify()


@pytest.mark.nightly
def test_a_guest_waits_for_room_on_the_file_system_of_its_volume(stack: Stack, small: MakeSmall, scratch: Path) -> None:
    """Which is mounted below the root of a storage domain that has room: it is not resumed again and again."""
    mounted = small("file")
    outer = Domain(f"outer-{mounted.name}", "file", mounted.mount.parent)
    stack.control_plane.kubectl("delete", "storagedomain", mounted.name)
    stack.make_ready({outer.name: outer})
    try:
        with _guest_on(stack, mounted, scratch) as (guest, machine):
            migration = stack.migrate(machine, "file-b", strategy="Direct", cutover={"policy": "Manual"})
            migration.wait_for_phase("Synchronized")
            mounted.fill()
            with lifecycle_of(stack.host, machine.name) as lifecycle:
                stalled = _wait_until_stalled(migration, "SourceFull")
                assert outer.name in stalled["message"]
                mounted.free()
                wait_until(lambda: machine.state() == "running", "the guest goes on")
                assert lifecycle.count("Resumed") <= FEW_RESUMES
            migration.patch({"cutover": {"policy": "Automatic"}})
            migration.succeed()
            guest.console.wait_for_more(20)
            assert_nothing_lost(guest, machine, scratch)
    finally:
        stack.control_plane.kubectl("delete", "storagedomain", outer.name)


def _guest_on(stack: Stack, place: SmallDomain, scratch: Path) -> Any:
    return writing_guest(stack, place.domain, scratch, volume_bytes=64 * MEBIBYTE, records_per_second=50)


def _wait_until_copying(migration: Migration, phase: str) -> None:
    migration.wait_for_phase(phase)
    wait_until(lambda: migration.status()["progress"]["copiedBytes"] > SLOW_BYTES, f"it is in mid-{phase}")


def _wait_until_room_is_known(stack: Stack, place: SmallDomain) -> None:
    def is_known() -> bool:
        found = stack.host_object()["status"]["storageDomains"]
        return any(each["name"] == place.name and each["availableBytes"] > place.room_bytes // 2 for each in found)

    wait_until(is_known, f"the node has told of the room in {place.name}", seconds=60)


def _wait_until_paused(machine: Machine) -> None:
    wait_until(lambda: machine.state() == "paused", "the guest met a full file system", seconds=60)


def _wait_until_stalled(migration: Migration, reason: str) -> dict[str, Any]:
    def stalled() -> dict[str, Any] | None:
        found = migration.condition("Stalled")
        return found if (found["status"], found["reason"]) == ("True", reason) else None

    return wait_until(stalled, f"it says that it is stalled by {reason}")


def _message(migration: Migration) -> str:
    return str(migration.condition("Succeeded")["message"])
