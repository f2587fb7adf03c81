"""The main job on real logical volumes, in all directions: the guest writes on, each volume grows by the rule of its
direction, and the chain arrives; the sizes are those that lvm2 and the kernel tell, before and after.

Chains of one volume are moved in the other files: from lvm to lvm by a race, the other ways with an agent that dies.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from tests.integration.migrations.growth import (
    Growth,
    extensions,
    finish,
    is_in_chunks,
    synchronized,
    total,
    watched,
)
from tests.integration.migrations.machines import CAPACITY_BYTES, Machine
from tests.integration.migrations.moves import assert_moved, move
from tests.integration.migrations.stack import REPLICATION_CHUNK_BYTES, Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.lvm.groups import Group
from tests.lvm.writing import write
from tests.waiting import wait_until

pytestmark = pytest.mark.lvm

Machines = Callable[..., Machine]
Lvs = Callable[[str], dict[str, int]]

LENGTH = 3


def assert_arrived(
    stack: Stack, migration: Migration, machine: Machine, source: str, destination: str, lvs: Lvs
) -> None:
    """Ends the migration, and looks at all that it must have made and removed."""
    finish(migration, machine)
    after = lvs("after")
    assert_moved(stack, machine, source, destination, migration.uid, length=LENGTH)
    made = [made_volume(migration.uid, position) for position in range(LENGTH)]
    if destination == "file-a":
        assert after == {}
        return
    assert set(after) == {f"{destination}/{name}" for name in made}
    assert all(after[f"{destination}/{name}"] < CAPACITY_BYTES for name in made[:-1]), "thin volumes stay thin"
    for name in made:
        assert Group(stack.domains[destination].root.name, ()).tags(name) == {
            "diskmigration.dev",
            f"diskmigration.dev/migration={migration.uid}",
            f"diskmigration.dev/vm={machine.uuid}",
            "diskmigration.dev/node=node-a",
        }


def tells_what_was_seen(lvs: Lvs, before: dict[str, int], name: str, grown: Sequence[Growth]) -> bool:
    """Whether the volume, written `GROUP/VOLUME`, has grown by as much for lvm2 as the kernel was seen to let it."""
    seen = total(growth for growth in grown if growth.volume == name.partition("/")[2])
    return lvs(f"while {name} grows")[name] - before[name] == seen


def test_from_lvm_to_lvm_both_sides_grow(stack: Stack, machines: Machines, lvs: Lvs) -> None:
    machine = machines("lvm-a", chain=LENGTH)
    assert len(lvs("before")) == LENGTH
    migration = synchronized(stack, machine, "lvm-b")
    source = stack.domains["lvm-a"].path(made_volume(migration.uid, "snapshot"))
    mirror = stack.domains["lvm-b"].path(made_volume(migration.uid, "overlay"))
    before = lvs("in step, before the guest writes")

    with watched(source, mirror) as grown:
        write(machine, source, mebibytes=56)
        wait_until(lambda: len(grown) >= 4, "both sides grew twice")
        for group, path in (("lvm-a", source), ("lvm-b", mirror)):
            # One more extension may be under way: the head room follows what is measured.
            wait_until(partial(tells_what_was_seen, lvs, before, f"{group}/{path.name}", grown), "lvm2 tells it too")

    # In which order is asked elsewhere: commands take so long here that the guest has no room to wait for both.
    assert {growth.volume for growth in grown} == {source.name, mirror.name}
    assert is_in_chunks(grown, REPLICATION_CHUNK_BYTES)
    assert_arrived(stack, migration, machine, "lvm-a", "lvm-b", lvs)


@pytest.mark.parametrize(
    ("source", "destination", "side", "other_side"),
    [("lvm-a", "file-a", "source", "destination"), ("file-a", "lvm-b", "destination", "source")],
    ids=["from-lvm-to-file", "from-file-to-lvm"],
)
def test_between_lvm_and_file_the_side_on_lvm_alone_grows(
    stack: Stack, machines: Machines, lvs: Lvs, source: str, destination: str, side: str, other_side: str
) -> None:
    machine = machines(source, chain=LENGTH)
    assert len(lvs("before")) == (LENGTH if side == "source" else 0)
    migration = synchronized(stack, machine, destination)
    group = source if side == "source" else destination
    volume = stack.domains[group].path(made_volume(migration.uid, "snapshot" if side == "source" else "overlay"))
    before = lvs("in step, before the guest writes")

    with watched(volume) as grown:
        mirrored = made_volume(migration.uid, "snapshot") if side == "destination" else None
        write(machine, volume, mebibytes=28, mirrored=mirrored)
        wait_until(lambda: len(grown) >= 1, "it grew")
        wait_until(partial(tells_what_was_seen, lvs, before, f"{group}/{volume.name}", grown), "lvm2 tells it too")
        wait_until(lambda: len(grown) in extensions(migration, side), "the status counts them")

    assert is_in_chunks(grown, REPLICATION_CHUNK_BYTES)
    assert extensions(migration, other_side) == {0}
    assert_arrived(stack, migration, machine, source, destination, lvs)


def test_a_thick_volume_has_its_whole_size_from_the_start(stack: Stack, machines: Machines, lvs: Lvs) -> None:
    machine = machines("file-a")
    uid = move(stack, machine, "lvm-b", destination={"provisioning": "Thick"})

    machine.verify()
    assert_moved(stack, machine, "file-a", "lvm-b", uid, length=1)
    assert CAPACITY_BYTES <= lvs("after")[f"lvm-b/{made_volume(uid, 0)}"] <= CAPACITY_BYTES + 8 * 2**20
