"""The main job on real logical volumes: in all directions, with what lvm2 itself says before and after."""

from collections.abc import Callable

import pytest

from tests.integration.migrations.machines import CAPACITY_BYTES, Machine
from tests.integration.migrations.moves import assert_moved, move
from tests.integration.migrations.stack import Stack
from tests.lvm.groups import Group

pytestmark = pytest.mark.lvm

Lvs = Callable[[str], dict[str, int]]

DIRECTIONS = [("lvm-a", "lvm-b"), ("lvm-a", "file-a"), ("file-a", "lvm-b")]


def tags(stack: Stack, domain: str, volume: str) -> set[str]:
    """The tags of a volume of a group."""
    return Group(stack.domains[domain].root.name, ()).tags(volume)


@pytest.mark.parametrize(("source", "destination"), DIRECTIONS)
@pytest.mark.parametrize("chain", [1, 3])
def test_a_disk_moves_with_its_data_and_its_chain(
    stack: Stack, machines: Callable[..., Machine], lvs: Lvs, source: str, destination: str, chain: int
) -> None:
    machine = machines(source, chain=chain)
    before = lvs("before")
    assert len(before) == (chain if source == "lvm-a" else 0)

    uid = move(stack, machine, destination)

    after = lvs("after")
    machine.verify()
    assert_moved(stack, machine, source, destination, uid, length=chain)
    if destination == "file-a":
        assert after == {}
        return
    assert set(after) == {f"{destination}/dm-{uid}-{position}" for position in range(chain)}
    assert all(size < CAPACITY_BYTES for size in after.values()), "thin volumes stay thin"
    for position in range(chain):
        assert tags(stack, destination, f"dm-{uid}-{position}") == {
            "diskmigration.dev",
            f"diskmigration.dev/migration={uid}",
            f"diskmigration.dev/vm={machine.uuid}",
            "diskmigration.dev/node=node-a",
        }


def test_a_thick_volume_has_its_whole_size_from_the_start(
    stack: Stack, machines: Callable[..., Machine], lvs: Lvs
) -> None:
    machine = machines("file-a")
    uid = move(stack, machine, "lvm-b", destination={"provisioning": "Thick"})

    machine.verify()
    assert_moved(stack, machine, "file-a", "lvm-b", uid, length=1)
    assert CAPACITY_BYTES <= lvs("after")[f"lvm-b/dm-{uid}-0"] <= CAPACITY_BYTES + 8 * 2**20
