"""A guest as a whole: its domain on a libvirt host, and its console."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from testbed.guest.console import SerialWatcher
from testbed.guest.domain import Disk, Writer, domain_xml
from testbed.guest.image import GuestImage, guest_image
from testbed.guest.records import Report, raw_copy, verify_records
from testbed.libvirt_host import LibvirtHost
from testbed.processes import TestbedError

_POWER_OFF_TIMEOUT_SECONDS = 60


class Guest:
    """A guest that writes. Made by `running_guest`."""

    def __init__(self, host: LibvirtHost, name: str, writer: Writer, console: SerialWatcher) -> None:
        self._host = host
        self.name = name
        self.writer = writer
        self.console = console

    def power_off(self) -> None:
        """Press the power button and wait until the domain is off; the console then knows the last record.

        Raises:
            TestbedError: the guest failed, or is not off in time.
        """
        self._host.virsh("shutdown", self.name)
        self.console.wait_for_stop(timeout_seconds=_POWER_OFF_TIMEOUT_SECONDS)
        deadline = time.monotonic() + _POWER_OFF_TIMEOUT_SECONDS
        while self.is_active():
            if time.monotonic() > deadline:
                raise TestbedError(f"{self.name} is not off {_POWER_OFF_TIMEOUT_SECONDS} s after its last record.")
            time.sleep(0.02)

    def destroy(self) -> None:
        """Cut the power, in the midst of whatever it writes."""
        self._host.virsh("destroy", self.name)

    def is_active(self) -> bool:
        """Return whether the domain runs or is paused."""
        return self.name in self._host.virsh("list", "--name").split()


@contextmanager
def running_guest(
    host: LibvirtHost, name: str, disks: Sequence[Disk], *, writer: Writer, directory: Path, paused: bool = False
) -> Iterator[Guest]:
    """Define a persistent domain and start it; its definition and its console's log are kept in `directory`.

    With `paused` it boots when it is resumed, and has touched no disk before.

    The console is watched until the end of the block, where the domain is destroyed, if it still runs, and forgotten.

    Raises:
        TestbedError: libvirt refused the domain.
    """
    log = directory / f"{name}.console.log"
    # A line of an earlier guest would be taken for this one's.
    log.unlink(missing_ok=True)
    definition = directory / f"{name}.xml"
    image = _copied(guest_image(), directory)
    definition.write_text(domain_xml(name, uuid4(), disks, serial_log=log, image=image, writer=writer))
    with ExitStack() as ending:
        console = ending.enter_context(SerialWatcher(log))
        host.virsh("define", str(definition))
        ending.callback(host.virsh, "undefine", name)
        guest = Guest(host, name, writer, console)
        host.virsh("start", name, *(["--paused"] if paused else []))
        ending.callback(_end, guest)
        yield guest


def _copied(image: GuestImage, directory: Path) -> GuestImage:
    """Copy the image to where QEMU's user can read it; libvirt changes the owner of what a domain boots from."""
    kernel, initrd = (directory / path.name for path in (image.kernel, image.initrd))
    if not initrd.exists():
        shutil.copyfile(image.kernel, kernel)
        shutil.copyfile(image.initrd, initrd)
    return GuestImage(kernel, initrd)


def _end(guest: Guest) -> None:
    try:
        guest.destroy()
    except TestbedError:
        # It may have ended by itself, at any moment.
        if guest.is_active():
            raise


def verify_volume(volume: Path, volume_format: str, writer: Writer, acknowledged: int, scratch: Path) -> Report:
    """Check a volume, with its backing chain, that no domain uses any more; `scratch` holds a raw copy meanwhile.

    Raises:
        TestbedError: the volume could not be read.
    """
    raw = scratch / f"{volume.name}.raw"
    try:
        raw_copy(volume, volume_format, raw)
        with raw.open("rb") as disk:
            return verify_records(disk, writer.layout, acknowledged)
    finally:
        raw.unlink(missing_ok=True)
