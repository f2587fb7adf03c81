"""One disk's way through the soak: moved again and again while it is written to, and every byte compared each time."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.integration.loop_devices import attached
from tests.integration.migrations.machines import empty, remove_machine
from tests.integration.migrations.stack import FINAL, Migration, Stack
from tests.integration.migrations.volumes import made_volume
from tests.integration.soak import chance
from tests.integration.soak.chance import Move
from tests.integration.soak.disk import SoakDisk, make_disk
from tests.integration.soak.writer import Writer
from tests.waiting import wait_until

_END_SECONDS = 180
_MOST_MOVES_OF_A_DISK = 4


@dataclass
class Log:
    """What all players did: each step as it is printed, and what they did in all."""

    begun: float = field(default_factory=time.monotonic)
    ended: Counter[str] = field(default_factory=Counter)
    writes: int = 0
    waited: int = 0

    def note(self, step: str) -> None:
        """Says what is done now, for whoever has to do it again."""
        print(f"{time.monotonic() - self.begun:7.1f} s  {step}", flush=True)  # noqa: T201 - pytest shows it on a failure

    def summary(self) -> str:
        """In one line."""
        ends = ", ".join(f"{count} {phase}" for phase, count in sorted(self.ended.items()))
        return f"{ends}; {self.writes} writes, {self.waited} of them again as there was no room"


class Player:
    """Moves disks until the time is over, a new one after some moves. Each runs in a thread of its own."""

    def __init__(self, stack: Stack, scratch: Path, number: int, seed: int, log: Log, over: threading.Event) -> None:
        self._stack = stack
        self._scratch = scratch
        self._number = number
        self._chance = random.Random(f"{seed}/{number}")  # noqa: S311 - to be repeated, not to be secret
        self._log = log
        self._over = over

    def play(self) -> None:
        """Returns once it is over and the last move has ended.

        Raises:
            AssertionError, TestbedError: something was lost or left, or did not end.
        """
        while not self._over.is_set():
            home = self._stack.domains[self._chance.choice(sorted(self._stack.domains))]
            shape = chance.shape(self._chance, is_block=home.kind == "loop")
            self._note(f"on {home.name}: {shape}")
            disk = make_disk(self._stack.host, home, shape, self._chance, self._scratch)
            try:
                self._move_about(disk)
            finally:
                # With its volumes, so that the next one finds the same room.
                remove_machine(disk.machine)
                for domain in self._stack.domains.values():
                    empty(domain, volumes={*disk.volumes, *disk.kept})
                disk.shadow.remove()

    def _move_about(self, disk: SoakDisk) -> None:
        writer = Writer(disk, random.Random(self._chance.random()))  # noqa: S311 - as above
        writer.start()
        try:
            for _ in range(self._chance.randint(1, _MOST_MOVES_OF_A_DISK)):
                self._move(disk, writer)
                if self._over.is_set():
                    break
        finally:
            writer.stop()
            self._log.writes += writer.count
            self._log.waited += writer.waited

    def _move(self, disk: SoakDisk, writer: Writer) -> None:
        wanted = chance.move(self._chance, disk.home.name, sorted(self._stack.domains), disk.shape.capacity_bytes)
        self._note(f"{disk.machine.name}: {wanted}")
        chain = disk.machine.chain()
        migration = self._stack.migrate(disk.machine, wanted.to, **wanted.spec)
        status = self._see_through(migration, wanted)
        self._log.ended[status["phase"]] += 1
        self._note(
            f"{disk.machine.name}: {migration.uid} {status['phase']}, {status.get('attempts', 0)} attempts, "
            f"{writer.count} writes so far"
        )
        wait_until(lambda: not disk.machine.has_journal(), f"the disk of {disk.machine.name} is free")
        with writer.paused():
            if status["phase"] == "Succeeded":
                length = 1 if wanted.flattens else len(disk.volumes)
                disk.home = self._stack.domains[wanted.to]
                names = partial(made_volume, migration.uid, attempt=status["attempts"], image_format=wanted.format)
                disk.volumes = [names(position) for position in range(length)]
                chain = [(str(disk.home.path(volume)), wanted.format) for volume in reversed(disk.volumes)]
            else:
                assert (status["phase"], wanted.cancelled_after is None) == ("Cancelled", False), status["failure"]
            assert disk.machine.chain() == chain
            for volume in (
                each for side in ("source", "destination") for each in status.get(side, {}).get("retained", [])
            ):
                self._note(f"{disk.machine.name}: kept {volume['name']}: {volume['reason']}")
                disk.kept.add(volume["name"])
            self._verify(disk, migration.uid)

    def _see_through(self, migration: Migration, wanted: Move) -> dict[str, Any]:
        """What the user does while it runs, each in its time, until it has ended; its last status."""
        begun = time.monotonic()
        due = wanted.wishes()

        def last_status() -> dict[str, Any] | None:
            status = migration.status()
            if status.get("phase") in FINAL:
                return status
            while due and time.monotonic() - begun > due[0][0]:
                migration.patch(due.pop(0)[1])
            return None

        return wait_until(last_status, f"{migration.name} ends", seconds=_END_SECONDS)

    def _verify(self, disk: SoakDisk, uid: str) -> None:
        """Every byte, both XMLs, and that nothing is there but the disk's own volumes and what a status says was kept.

        QEMU keeps the volumes of a pivot open that ran full, so that they stay.
        """
        disk.verify()
        machine = disk.machine
        assert machine.chain(inactive=True)[0] == machine.chain()[0]
        assert "<mirror" not in machine.xml()
        names = (machine.name, f"dm-{uid}", *disk.volumes)
        for domain in self._stack.domains.values():
            found = {file for file in domain.files() if file.startswith(names)}
            own = set(disk.volumes) if domain is disk.home else set()
            assert found - disk.kept == own, f"in {domain.name}: {found}, kept are {disk.kept}"
        expected = set(disk.volumes) if disk.home.kind == "loop" else set()
        # A device goes when nobody looks at it any more, and other programs of the machine do now and then.
        wait_until(
            lambda: (
                {file.name for file in attached(Path("/")).values() if file.name.startswith(names)} - disk.kept
                == expected
            ),
            f"the loop devices of {machine.name} are those of its volumes",
        )

    def _note(self, step: str) -> None:
        self._log.note(f"{self._number}: {step}")
