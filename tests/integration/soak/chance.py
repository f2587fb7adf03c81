"""What is left to chance: the shape of a disk, what is written to it, and how it is moved. Pure, from a seed."""

import math
import operator
import random
from dataclasses import dataclass
from typing import Any

from tests.integration.migrations.machines import MEBIBYTE

SECTOR_BYTES = 512
_BLOCK_BYTES = 4096  # a loop device's sector, to which a raw volume on one is rounded
_LONGEST_WRITE_BYTES = 8 * MEBIBYTE
_THICK_BYTES = 256 * MEBIBYTE

_ORDINARY: tuple[dict[str, str], ...] = (
    {},
    {"cluster_size": "64k", "extended_l2": "on"},
    {"cluster_size": "64k", "lazy_refcounts": "on"},
    {"compat": "0.10"},
)
_OTHERS: tuple[dict[str, str], ...] = ({"cluster_size": "2M"}, {"cluster_size": "512k"}, {"cluster_size": "4k"})


@dataclass(frozen=True)
class Layer:
    """One volume of a new disk; `options` are those of `qemu-img create`."""

    format: str
    options: dict[str, str]


@dataclass(frozen=True)
class Shape:
    """A new disk: its chain, base first."""

    capacity_bytes: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Write:
    """One write; a pattern of 0 is a command to write zeroes, with `unmap` or without."""

    offset: int
    length: int
    pattern: int
    unmap: bool = False


@dataclass(frozen=True)
class Move:
    """One migration, and what its user does meanwhile; times in seconds after it was applied."""

    to: str
    spec: dict[str, Any]
    cutover_after: float
    unlimited_after: float
    cancelled_after: float | None

    @property
    def flattens(self) -> bool:
        """Whether it makes one volume of the chain."""
        return bool(self.spec["backingChain"] == "Flatten")

    @property
    def format(self) -> str:
        """Of the volumes that it makes."""
        return str(self.spec["destination"]["format"])

    def wishes(self) -> list[tuple[float, dict[str, Any]]]:
        """When and how its spec is changed, in order."""
        wishes: list[tuple[float, dict[str, Any]]] = []
        if self.spec["cutover"]["policy"] == "Manual":
            wishes.append((self.cutover_after, {"cutover": {"policy": "Automatic"}}))
        if "bandwidth" in self.spec:
            wishes.append((self.unlimited_after, {"bandwidth": None}))
        if self.cancelled_after is not None:
            wishes.append((self.cancelled_after, {"cancel": True}))
        return sorted(wishes, key=operator.itemgetter(0))


def shape(chance: random.Random, *, is_block: bool) -> Shape:
    """A chain of 1 to 4 volumes, of 128 MiB to 1 GiB.

    On block storage the active layer has clusters of 64 KiB: a thin volume is extended to what these can take, and the
    tables of others take more, so that the last part of such a disk could not be written.
    """
    capacity = round(2 ** chance.uniform(7, 10)) * MEBIBYTE + chance.choice((0, 0, _BLOCK_BYTES, 37 * _BLOCK_BYTES))
    length = chance.randint(1, 4)
    layers = []
    for position in range(length):
        is_active = position == length - 1
        options = chance.choice(_ORDINARY if is_active and is_block else _ORDINARY + _OTHERS)
        is_raw = position == 0 and chance.random() < 0.3
        layers.append(Layer("raw", {}) if is_raw else Layer("qcow2", options))
    return Shape(capacity, tuple(layers))


def write(chance: random.Random, capacity_bytes: int, *, longest: int = _LONGEST_WRITE_BYTES) -> Write:
    """From one sector to the longest, as often small as large, half of them crowded at the disk's start."""
    length = int(2 ** chance.uniform(math.log2(SECTOR_BYTES), math.log2(longest))) // SECTOR_BYTES * SECTOR_BYTES
    reach = capacity_bytes // chance.choice((1, 8)) - length
    offset = chance.randrange(reach // SECTOR_BYTES + 1) * SECTOR_BYTES
    if chance.random() < 0.3:
        return Write(offset, length, 0, unmap=chance.random() < 0.5)
    return Write(offset, length, chance.randint(1, 255))


def move(chance: random.Random, at: str, domains: list[str], capacity_bytes: int) -> Move:
    """To another domain, in any way that the API has."""
    chain = chance.choice(("Preserve", "Preserve", "Flatten"))
    is_raw = chain == "Flatten" and chance.random() < 0.4
    is_thick = capacity_bytes <= _THICK_BYTES and chance.random() < 0.2
    spec: dict[str, Any] = {
        "strategy": chance.choice(("Snapshot", "Snapshot", "Direct")),
        "backingChain": chain,
        "copyMode": chance.choice(("Background", "Background", "WriteBlocking")),
        "cutover": {"policy": chance.choice(("Automatic", "Manual"))},
        "destination": {
            "format": "raw" if is_raw else "qcow2",
            "provisioning": "Thick" if is_thick else "Thin",
        },
        # Whoever writes past the end of a thin volume has the mirror made again: this is no test of how often.
        "backoffLimit": 20,
    }
    if chance.random() < 0.3:
        spec["bandwidth"] = chance.randint(4, 32) * MEBIBYTE
    return Move(
        to=chance.choice([domain for domain in domains if domain != at]),
        spec=spec,
        cutover_after=chance.uniform(0, 8),
        unlimited_after=chance.uniform(2, 10),
        cancelled_after=chance.uniform(0, 10) if chance.random() < 0.25 else None,
    )
