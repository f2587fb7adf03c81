"""The main job: in all four directions, with every shape of disk, while writes go on through the mirror."""

from collections.abc import Callable

import pytest

from tests.integration.migrations.machines import CAPACITY_BYTES, Machine
from tests.integration.migrations.moves import assert_moved, move
from tests.integration.migrations.stack import Stack
from tests.integration.migrations.volumes import made_volume
from tests.variants import chosen_by_day, first_by_day

DIRECTIONS = [("file-a", "file-b"), ("loop-a", "loop-b"), ("file-a", "loop-b"), ("loop-a", "file-b")]
SHAPES = [
    *[("Snapshot", "Preserve", chain, base_format) for chain in (1, 3) for base_format in ("qcow2", "raw")],
    *[
        (strategy, backing_chain, chain, base_format)
        for strategy, backing_chain in (("Snapshot", "Flatten"), ("Direct", "Preserve"), ("Direct", "Flatten"))
        for chain, base_format in ((3, "qcow2"), (1, "raw"))
    ],
]
BY_DAY = [
    ("Snapshot", "Preserve", 3, "raw", "file-a", "loop-b"),
    ("Snapshot", "Flatten", 3, "qcow2", "loop-a", "file-b"),
    ("Direct", "Preserve", 3, "qcow2", "loop-a", "loop-b"),
    ("Direct", "Flatten", 1, "raw", "file-a", "file-b"),
]
"""Each direction, each strategy with each way to treat the chain, both lengths and both formats."""


@pytest.mark.parametrize(
    ("strategy", "backing_chain", "chain", "base_format", "source", "destination"),
    chosen_by_day([(*shape, *direction) for shape in SHAPES for direction in DIRECTIONS], BY_DAY.__contains__),
)
def test_a_disk_moves_with_its_data_and_its_chain(
    stack: Stack,
    machines: Callable[..., Machine],
    source: str,
    destination: str,
    strategy: str,
    backing_chain: str,
    chain: int,
    base_format: str,
) -> None:
    machine = machines(source, chain=chain, base_format=base_format)
    uid = move(stack, machine, destination, strategy=strategy, backingChain=backing_chain)

    machine.verify()
    assert_moved(stack, machine, source, destination, uid, length=chain if backing_chain == "Preserve" else 1)


@pytest.mark.parametrize(("source", "destination"), first_by_day(reversed(DIRECTIONS)))
def test_a_chain_is_flattened_into_a_raw_volume(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source, chain=3)
    uid = move(stack, machine, destination, backingChain="Flatten", destination={"format": "raw"})

    machine.verify()
    assert_moved(stack, machine, source, destination, uid, length=1, image_format="raw")


@pytest.mark.parametrize(("source", "destination"), first_by_day(DIRECTIONS))
def test_a_thick_volume_has_its_whole_size_from_the_start(
    stack: Stack, machines: Callable[..., Machine], source: str, destination: str
) -> None:
    machine = machines(source)
    uid = move(stack, machine, destination, destination={"provisioning": "Thick"})

    machine.verify()
    assert_moved(stack, machine, source, destination, uid, length=1)
    volume = stack.domains[destination].root / made_volume(uid, 0)
    assert volume.stat().st_size >= CAPACITY_BYTES
