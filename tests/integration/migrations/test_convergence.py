"""A guest that writes faster than its mirror copies: it is said, and copyMode Auto sees to it."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import Migration, Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

SLOW = 2 * MEBIBYTE
START = 40 * MEBIBYTE
SPAN = 32
PAUSE_SECONDS = 0.1
"""At most 10 MiB a second are written: five times as much as is copied, and little work for this machine."""


@contextmanager
def writing(machine: Machine) -> Iterator[None]:
    """The same range is written again and again, faster than it is mirrored."""
    ended = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if ended.wait(PAUSE_SECONDS):
                return
            offset = START + number % SPAN * MEBIBYTE
            machine.write(offset=offset, length=MEBIBYTE, pattern=number % 250 + 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


def converging(migration: Migration) -> str:
    """The reason of the condition, or nothing."""
    found = migration.status().get("conditions", [])
    return next((str(each["reason"]) for each in found if each["type"] == "Converging"), "")


@pytest.mark.nightly
def test_a_mirror_that_falls_behind_is_told(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("file-a")
    with writing(machine):
        migration = stack.migrate(machine, "file-b", bandwidth=SLOW)
        wait_until(lambda: converging(migration) == "GuestWritesFaster", "it is told", seconds=60)
        assert migration.condition("Converging")["status"] == "False"
        assert migration.status()["effective"]["copyMode"] == "Background"
    migration.patch({"bandwidth": None})
    migration.succeed()
    machine.verify()
    events = stack.control_plane.kubectl("get", "events", "--namespace=vms", "--output=name")
    assert migration.name in events


def test_auto_makes_the_guest_wait_for_the_destination(stack: Stack, machines: Callable[..., Machine]) -> None:
    machine = machines("file-a")
    with writing(machine):
        migration = stack.migrate(machine, "loop-b", bandwidth=SLOW, copyMode="Auto")
        wait_until(lambda: converging(migration) == "WriteBlocking", "it has switched", seconds=60)
        assert migration.status()["effective"]["copyMode"] == "WriteBlocking"
        status = migration.succeed(seconds=120)
    assert status["attempts"] == 1
    machine.verify()


@pytest.mark.parametrize("strategy", first_by_day(["Snapshot", "Direct"]))
def test_a_write_blocking_mirror_keeps_what_lies_around_a_small_write(
    stack: Stack, machines: Callable[..., Machine], strategy: str
) -> None:
    machine = machines("file-a", chain=2)
    migration = stack.migrate(
        machine, "loop-b", copyMode="WriteBlocking", strategy=strategy, cutover={"policy": "Manual"}
    )
    migration.wait_for_phase("Synchronized")
    machine.write(offset=MEBIBYTE + 512, length=512, pattern=99)
    machine.written[0] = (MEBIBYTE + 512, 1)
    machine.written[MEBIBYTE + 1024] = (4 * MEBIBYTE - 1024, 1)
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    machine.verify()
