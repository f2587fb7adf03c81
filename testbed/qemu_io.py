"""Writes to a running domain's disk and reads from it with no guest, through the whole block stack, a mirror included.

Uses qemu-io inside the domain's own QEMU, by its monitor (`qemu-io -d` of QEMU's HMP).
"""

import re

from testbed.libvirt_host import LibvirtHost
from testbed.processes import TestbedError

# What qemu-io prints for a whole success; HMP has no exit status.
_DONE = re.compile(r"^(?:wrote|read) (\d+)/(\d+) bytes at offset (\d+)$", re.MULTILINE)


def write_pattern(
    host: LibvirtHost, domain: str, *, offset: int, length: int, pattern: int, device: str = "virtio-disk0"
) -> None:
    """Write `length` bytes of the value `pattern` (0 to 255) at byte `offset` of a domain's disk.

    `device` is the alias of the disk's device: virtio-disk0 is the first virtio disk.

    Raises:
        TestbedError: QEMU did not write all of it, for instance as the storage is full.
    """
    _qemu_io(host, domain, device, f"write -P {pattern} {offset} {length}", length)


def verify_pattern(
    host: LibvirtHost, domain: str, *, offset: int, length: int, pattern: int, device: str = "virtio-disk0"
) -> None:
    """Read `length` bytes at byte `offset` of a domain's disk and compare each with the value `pattern`.

    Raises:
        TestbedError: a byte differs, or the read failed.
    """
    _qemu_io(host, domain, device, f"read -P {pattern} {offset} {length}", length)


def flush(host: LibvirtHost, domain: str, *, device: str = "virtio-disk0") -> None:
    """Flush a domain's disk.

    Raises:
        TestbedError: QEMU could not.
    """
    if answer := _ask(host, domain, device, "flush").strip():
        raise TestbedError(f"flush of {device} of {domain}: {answer}")


def _qemu_io(host: LibvirtHost, domain: str, device: str, command: str, length: int) -> None:
    answer = _ask(host, domain, device, command)
    done = _DONE.search(answer.replace("\r", ""))
    if done is None or int(done[1]) != length or "verification failed" in answer:
        raise TestbedError(f"{command} on {device} of {domain}: {answer.strip() or 'no answer'}")


def _ask(host: LibvirtHost, domain: str, device: str, command: str) -> str:
    backend = f"/machine/peripheral/{device}/virtio-backend"
    return host.virsh("qemu-monitor-command", domain, "--hmp", f'qemu-io -d {backend} "{command}"')
