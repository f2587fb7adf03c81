"""An agent remembers nothing of migrations that have ended, however many there were."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diskmigration.cluster.versions import REMEMBERED_VERSIONS
from testbed.programs import Program
from tests.integration.migrations import counted_agent
from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.waiting import wait_until

Machines = Callable[..., Machine]
Census = dict[str, int]

ALLOWED_GROWTH_BYTES = 8 * MEBIBYTE
"""What an allocator may leave over: 500 migrations of which each left 20 KB would be more."""

HYPERVISOR = "diskmigration.agent.hypervisor"
OF_THREADS = (
    "task",
    "fd",
    "libvirt.",
    "diskmigration.agent.background.",
    *(f"{HYPERVISOR}.{name}" for name in ("connection.Connection", "vm_reader.VmReader", "qemu_calls.")),
)
"""Those pools of threads that are not full yet make more of, as each thread may have a connection of its own."""
GROWTH_BY_THREADS = 48
BOUNDED = {
    # The newest so many.
    "diskmigration.cluster.versions.Versions._known": REMEMBERED_VERSIONS,
    # Of each storage domain, the longest extension.
    "diskmigration.agent.extender.write_rate.DecayingMax": 16,
}


@dataclass(frozen=True)
class Counted:
    """The agent while it can be asked what it remembers."""

    agent: Program
    file: Path

    def census(self) -> Census:
        """What it remembers now, its threads and its open files among it."""
        self.file.unlink(missing_ok=True)
        os.kill(self.agent.pid, signal.SIGUSR1)
        wait_until(self.file.exists, "the agent has counted")
        counts: Census = json.loads(self.file.read_text())
        for kind in ("task", "fd"):
            counts[kind] = len(list(Path(f"/proc/{self.agent.pid}/{kind}").iterdir()))
        return counts

    def least(self, *, of: int, so_far: Census | None = None) -> Census:
        """The least that it remembers of each kind in so many looks, as something is always under way."""
        found = [*([so_far] if so_far is not None else []), *(self.census() for _ in range(of))]
        return {name: min(each.get(name, 0) for each in found) for name in frozenset().union(*found)}

    def resident_bytes(self) -> int:
        """What it has in memory now."""
        status = Path(f"/proc/{self.agent.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@pytest.fixture
def counted(stack: Stack, scratch: Path) -> Iterator[Counted]:
    file = scratch / "census.json"
    environment = {counted_agent.FILE: str(file), "PYTHONPATH": os.pathsep.join(sys.path)}
    with stack.agent.running_with(module=counted_agent.__name__, environment=environment):
        stack.make_ready(stack.domains)
        yield Counted(stack.agent, file)
    stack.make_ready(stack.domains)


@dataclass
class Traveller:
    """A VM whose disk goes to and fro."""

    machine: Machine
    places: tuple[str, str]
    strategy: str = "Snapshot"
    travels: int = 0

    @property
    def place(self) -> str:
        """The storage domain on which its disk is, or which it moves to."""
        return self.places[self.travels % 2]

    def begin(self, stack: Stack) -> Migration:
        """Begin the next move."""
        self.travels += 1
        if self.machine.state() == "paused":
            self.machine.write(offset=50 * MEBIBYTE, length=MEBIBYTE, pattern=self.travels % 200 + 1)
        return stack.migrate(self.machine, self.place, strategy=self.strategy, ttlSecondsAfterFinished=0)


def growth(before: Census, after: Census, *, rounds: int) -> dict[str, tuple[int, int]]:
    """What there is more of than there was, and how much of it there was and is.

    What is forgotten with the next migration differs from one to the other. What is never forgotten grows each round.
    """
    found = {name: (before.get(name, 0), count) for name, count in after.items()}
    return {name: (old, new) for name, (old, new) in found.items() if new > old + allowed_growth(name) + rounds // 10}


def allowed_growth(name: str) -> int:
    """How much more there may be of what has a bound and has not come to it yet."""
    return GROWTH_BY_THREADS if name.startswith(OF_THREADS) else BOUNDED.get(name, 0)


def travel(stack: Stack, travellers: list[Traveller], rounds: int) -> None:
    """Move all of them so many times, each time at once."""
    for _ in range(rounds):
        moves = [traveller.begin(stack) for traveller in travellers]
        for move in moves:
            wait_until(move.is_gone, f"{move.name} has ended, and its object is gone", seconds=120)
        for traveller in travellers:
            assert traveller.machine.chain()[0][0].startswith(str(stack.domains[traveller.place].root))


@pytest.mark.nightly
@pytest.mark.parametrize(("warm", "rounds", "counts_memory"), [(2, 3, False), (25, 100, True)])
@pytest.mark.timeout(7200)
def test_what_it_remembers_does_not_grow(
    stack: Stack, machines: Machines, counted: Counted, *, warm: int, rounds: int, counts_memory: bool
) -> None:
    travellers = [
        Traveller(machines("loop-a"), ("loop-a", "loop-b")),
        Traveller(machines("loop-a", chain=2), ("loop-a", "file-b")),
        Traveller(machines("file-a"), ("file-a", "loop-b"), strategy="Direct"),
        Traveller(machines("file-a", start=False), ("file-a", "file-b")),
    ]
    travel(stack, travellers, warm)
    before, resident_before = counted.least(of=5), counted.resident_bytes()
    travel(stack, travellers, rounds)
    after = counted.least(of=5)

    def has_not_grown() -> bool:
        nonlocal after
        after = counted.least(of=1, so_far=after)
        return not growth(before, after, rounds=rounds)

    try:
        wait_until(has_not_grown, "nothing is left", seconds=60)
    except AssertionError as error:
        raise AssertionError(f"it remembers more, before and after: {growth(before, after, rounds=rounds)}") from error
    if counts_memory:
        assert counted.resident_bytes() - resident_before < ALLOWED_GROWTH_BYTES
