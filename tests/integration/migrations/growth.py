"""How thin volumes grow: watched from outside, while a machine writes no faster than there is room."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import pytest

from diskmigration.agent.extender.watermark import largest_useful_size
from testbed.processes import TestbedError
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import Migration, Stack, storage_domain
from tests.waiting import wait_until

_WATCH_SECONDS = 0.001
_METADATA_BYTES = 128 * 1024
_IN_TIME_SECONDS = 15
"""Far less than the 30 s that libvirt itself lets a call wait for a VM, and more than a busy machine needs."""


@dataclass(frozen=True)
class Growth:
    """One volume's size on disk changed; `sizes` are those of all watched volumes at that look."""

    volume: str
    before: int
    after: int
    sizes: tuple[int, ...]


def size_bytes(volume: Path) -> int:
    """The file's apparent size, or the device's as the kernel has it."""
    if volume.is_block_device():
        return int((Path("/sys/class/block") / volume.resolve().name / "size").read_text()) * 512
    return volume.stat().st_size


def is_in_chunks(grown: Iterable[Growth], chunk_bytes: int) -> bool:
    """Whether the volumes grew by whole chunks: by more than one at a time where extensions are slow for the writer.

    The last chunk of a volume is cut where its disk could use no more, which LVM rounds up to its extents.
    """
    most = largest_useful_size(CAPACITY_BYTES)
    return all(
        growth.after >= most or (growth.after > growth.before and not (growth.after - growth.before) % chunk_bytes)
        for growth in grown
    )


def total(grown: Iterable[Growth]) -> int:
    """By how much they grew together, in bytes."""
    return sum(growth.after - growth.before for growth in grown)


@contextmanager
def watched(*files: Path) -> Iterator[list[Growth]]:
    """Records how the files' sizes change. At each look they are read in the order given."""
    seen: list[Growth] = []
    sizes = {file: size_bytes(file) for file in files}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_WATCH_SECONDS):
            found = tuple(size_bytes(file) for file in files)
            for file, size in zip(files, found, strict=True):
                if size != sizes[file]:
                    seen.append(Growth(file.name, sizes[file], size, found))
                    sizes[file] = size

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def write_in_steps(machine: Machine, *, start: int, length: int, free: Callable[[], int], step: int = MEBIBYTE) -> None:
    """Writes a step at a time, each when there is room for it: as a guest does that the extender keeps up with."""
    for offset in range(start, start + length, step):
        wait_until(lambda: free() > step + _METADATA_BYTES, f"room for a write at {offset}")
        machine.write(offset=offset, length=step, pattern=offset // MEBIBYTE % 250 + 1)


def has_grown_in_time(machine: Machine, *, start: int, length: int) -> None:
    """Write to a disk of one volume no faster than there is room, and see each extension come in time for a guest.

    The volume is smaller than what is written, so that it must grow: what earlier writes had it extended by depends
    on how fast they were.
    """
    [volume] = machine.volumes
    before = size_bytes(volume)
    assert before < length, "the volume need not grow for this"
    with watched(volume) as grown:
        for offset in range(start, start + length, MEBIBYTE):
            wait_until(
                lambda: free_bytes(machine, str(volume)) > 2 * MEBIBYTE,
                f"there is room at {offset}",
                seconds=_IN_TIME_SECONDS,
            )
            machine.write(offset=offset, length=MEBIBYTE, pattern=offset // MEBIBYTE % 250 + 1)
    assert grown
    assert size_bytes(volume) > before


def write_until_there_is_room(machine: Machine, *, offset: int, length: int, pattern: int) -> None:
    """Writes as soon as it can, not asking before: where there is no room it is made again until there is.

    QEMU does so for a guest that it has paused for it (`werror=enospc`); it does not for the writes of its monitor.
    """

    def is_written() -> bool:
        try:
            machine.write(offset=offset, length=length, pattern=pattern)
        except TestbedError as error:
            if "No space left on device" not in str(error):
                raise
            return False
        return True

    wait_until(is_written, f"there is room for a write at {offset}")


def free_bytes(machine: Machine, path_end: str, *, mirrored: str | None = None) -> int:
    """What is left of the open volume whose path ends so, by libvirt's statistics.

    Of a mirror's, what is left when it has all that the volume has whose path ends like `mirrored`: it looks for what
    was written every tenth of a second, and later on a busy machine.
    """
    reported = _reported(machine, path_end)
    taken = reported["allocation"]
    if mirrored is not None:
        taken = max(taken, _reported(machine, mirrored)["allocation"])
    return int(reported["physical"] - taken)


def threshold_bytes(machine: Machine, path_end: str) -> int:
    """The threshold that is armed on the open volume whose path ends so; 0 where none is."""
    return int(_reported(machine, path_end).get("threshold", 0))


def _reported(machine: Machine, path_end: str) -> dict[str, Any]:
    """Its statistics by their last names, of one moment."""
    with machine.host.domain(machine.name) as domain:
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING
        [(_, values)] = domain.connect().domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_BLOCK, flags)
    paths = {value: key.split(".")[1] for key, value in values.items() if key.endswith(".path")}
    position = next((position for path, position in paths.items() if path.endswith(path_end)), None)
    assert position is not None, f"{path_end} is not open in {machine.name}, but {sorted(paths)}"
    prefix = f"block.{position}."
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def synchronized(stack: Stack, machine: Machine, to: str, **spec: object) -> Migration:
    """A migration that is in step and waits for its cutover."""
    migration = stack.migrate(machine, to, cutover={"policy": "Manual"}, **spec)
    migration.wait_for_phase("Synchronized")
    return migration


def set_watermark(stack: Stack, request: pytest.FixtureRequest, *domains: Domain, watermark_bytes: int) -> None:
    """Gives the storage domains another one until the end of the test."""
    for domain in domains:
        request.addfinalizer(partial(stack.apply, storage_domain(domain)))
        changed = storage_domain(domain)
        changed["spec"]["thinProvisioning"]["highWatermark"] = watermark_bytes
        stack.apply(changed)


def extensions(migration: Migration, side: str) -> set[int]:
    """How often the status says that the side's volumes were extended."""
    return {volume["extensions"] for volume in migration.status()[side]["volumes"]}


def finish(migration: Migration, machine: Machine) -> None:
    """Lets it pivot, and reads every byte back."""
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    machine.verify()
