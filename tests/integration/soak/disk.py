"""A disk of any shape, and a plain file that holds what must be in it, byte for byte."""

import os
import random
import subprocess
import uuid
from pathlib import Path

from testbed import qemu_io
from testbed.libvirt_host import LibvirtHost
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine, define
from tests.integration.soak.chance import Layer, Shape, Write, write

_WRITES_A_LAYER = 4
_LONGEST_FIRST_WRITE_BYTES = 2 * MEBIBYTE
_THIN_BYTES = 64 * MEBIBYTE


class Shadow:
    """The expected content of a disk, in a sparse file, written in the same order as the disk."""

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        self.path = path
        with path.open("xb") as made:
            made.truncate(capacity_bytes)
        self._descriptor = os.open(path, os.O_RDWR)

    def take(self, done: Write) -> None:
        """Takes in what was written."""
        block = bytes([done.pattern]) * min(done.length, MEBIBYTE)
        for start in range(0, done.length, MEBIBYTE):
            os.pwrite(self._descriptor, block[: done.length - start], done.offset + start)

    def remove(self) -> None:
        """The file goes."""
        os.close(self._descriptor)
        self.path.unlink()


class SoakDisk:
    """A paused VM's disk with its shadow; `home` is where it lives, `volumes` are the names that its volumes have.

    `kept` are those that migrations have left, and say so.
    """

    def __init__(self, machine: Machine, shape: Shape, shadow: Shadow, home: Domain, volumes: list[str]) -> None:
        self.machine = machine
        self.shape = shape
        self.shadow = shadow
        self.home = home
        self.volumes = volumes
        self.kept: set[str] = set()

    def write(self, wanted: Write) -> None:
        """Writes through the VM's whole block stack, then to the shadow.

        Raises:
            TestbedError: QEMU did not write all of it.
        """
        host, name, offset, length = self.machine.host, self.machine.name, wanted.offset, wanted.length
        if wanted.pattern == 0:
            qemu_io.write_zeroes(host, name, offset=offset, length=length, unmap=wanted.unmap)
        else:
            qemu_io.write_pattern(host, name, offset=offset, length=length, pattern=wanted.pattern)
        self.shadow.take(wanted)

    def verify(self) -> None:
        """Compares every byte of the disk with the shadow; nobody writes meanwhile."""
        qemu_io.flush(self.machine.host, self.machine.name)
        path, image_format = self.machine.chain()[0]
        _run("qemu-img", "compare", "-U", "-f", "raw", "-F", image_format, self.shadow.path, path)


def make_disk(host: LibvirtHost, home: Domain, shape: Shape, chance: random.Random, scratch: Path) -> SoakDisk:
    """A running VM with such a disk, each of whose volumes has data of its own."""
    name = f"soak-{uuid.uuid4().hex[:8]}"
    machine = Machine(host, name, str(uuid.uuid4()), [])
    shadow = Shadow(scratch / f"{name}.raw", shape.capacity_bytes)
    below: tuple[Path, Layer] | None = None
    for position, layer in enumerate(shape.layers):
        size = shape.capacity_bytes if layer.format == "raw" else _THIN_BYTES
        path = home.make_volume(f"{name}-{position}", size)
        _format(path, layer, below, shape.capacity_bytes, is_block=home.kind == "loop")
        for _ in range(_WRITES_A_LAYER):
            first = write(chance, shape.capacity_bytes, longest=_LONGEST_FIRST_WRITE_BYTES)
            how = f"-P {first.pattern}" if first.pattern else "-z"
            _run("qemu-io", "-f", layer.format, "-c", f"write -q {how} {first.offset} {first.length}", path)
            shadow.take(first)
        machine.volumes.append(path)
        below = path, layer
    define(machine, home, shape.layers[-1].format)
    host.virsh("start", name, "--paused")
    return SoakDisk(machine, shape, shadow, home, [f"{name}-{position}" for position in range(len(shape.layers))])


def _format(path: Path, layer: Layer, below: tuple[Path, Layer] | None, capacity: int, *, is_block: bool) -> None:
    if layer.format == "raw" and is_block:
        return
    backing = ["-u", "-b", str(below[0]), "-F", below[1].format] if below is not None else []
    options = ["-o", ",".join(f"{key}={value}" for key, value in layer.options.items())] if layer.options else []
    _run("qemu-img", "create", "-q", "-f", layer.format, *options, *backing, path, str(capacity))


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
