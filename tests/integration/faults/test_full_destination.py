"""The destination runs full at the very moments at which the way back is about to close, or is closed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.faults.holds import Holds
from tests.integration.migrations.as_it_was import AsItWas
from tests.integration.migrations.guests import assert_nothing_lost, writing_guest
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.small import SmallDomain, small_domain
from tests.integration.migrations.stack import Stack
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]
MakeSmall = Callable[[str], SmallDomain]

KINDS = ["file", "loop"]


@pytest.fixture
def small(stack: Stack, scratch: Path) -> Iterator[MakeSmall]:
    """Makes a small storage domain of a kind. Asked for before `machines`, whose VMs have to be gone at its end."""
    with ExitStack() as ending:
        yield lambda kind: ending.enter_context(small_domain(stack, scratch, kind))


@pytest.mark.parametrize("kind", first_by_day(KINDS))
def test_just_before_the_pivot_it_goes_back(
    stack: Stack, holds: Holds, small: MakeSmall, machines: Machines, kind: str
) -> None:
    destination, machine = small(kind), machines("file-a", chain=2)
    before = AsItWas.of(machine, stack.domains["file-a"])
    holds.arm("Pivot.midway")
    migration = stack.migrate(machine, destination.name)
    wait_until(lambda: holds.is_reached("Pivot.midway"), "it is about to pivot", seconds=60)

    destination.fill()
    machine.write(offset=60 * MEBIBYTE, length=20 * MEBIBYTE, pattern=60)
    holds.release()

    status = migration.wait_for_phase("Failed")
    assert status["failure"]["reason"] == "DestinationFull", status["failure"]
    assert status["attempts"] == 1
    before.assert_so_again()
    # QEMU has opened the chain for the pivot, and does not close it as that fails.
    kept = status["destination"]["retained"]
    assert destination.domain.files() == sorted(volume["name"] for volume in kept)
    assert all("It is open" in volume["reason"] or "It lies below" in volume["reason"] for volume in kept), kept


@pytest.mark.parametrize("kind", first_by_day(KINDS))
def test_after_the_pivot_the_merge_waits_for_room(
    stack: Stack, holds: Holds, small: MakeSmall, machines: Machines, kind: str
) -> None:
    destination, machine = small(kind), machines("file-a", chain=2)
    holds.arm("Merge.before")
    migration = stack.migrate(machine, destination.name)
    wait_until(lambda: holds.is_reached("Merge.before"), "it is about to merge", seconds=60)
    machine.write(offset=60 * MEBIBYTE, length=20 * MEBIBYTE, pattern=60)
    destination.fill()

    holds.release()

    says = f"{destination.name} is full"
    wait_until(lambda: says in migration.condition("Succeeded")["message"], "it says why it does not go on")
    assert migration.phase() == "Merging"
    assert migration.condition("Succeeded")["status"] == "Unknown"
    destination.free()
    migration.succeed()
    assert destination.domain.files() == [made_volume(migration.uid, position) for position in range(2)]
    assert stack.domains["file-a"].files() == []
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", first_by_day(KINDS))
def test_after_the_pivot_a_guest_that_met_a_full_destination_goes_on_when_there_is_room(
    stack: Stack, holds: Holds, small: MakeSmall, scratch: Path, kind: str
) -> None:
    destination = small(kind)
    with writing_guest(stack, "file-a", scratch, volume_bytes=0, records_per_second=50) as (guest, machine):
        holds.arm("Merge.before")
        migration = stack.migrate(machine, destination.name)
        wait_until(lambda: holds.is_reached("Merge.before"), "it is about to merge", seconds=60)
        destination.fill()
        wait_until(lambda: machine.state() == "paused", "the guest met a full file system", seconds=60)
        holds.release()

        wait_until(
            lambda: (
                (found := migration.condition("Stalled"))["status"] == "True" and found["reason"] == "DestinationFull"
            ),
            "it says that it is stalled",
        )
        assert migration.phase() == "Merging"
        destination.free()
        migration.succeed()
        wait_until(lambda: machine.state() == "running", "the guest goes on")
        guest.console.wait_for_more(20)
        assert migration.condition("Stalled")["status"] == "False"
        assert_nothing_lost(guest, machine, scratch)
