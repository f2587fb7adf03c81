"""Writes to a running domain's disk and reads from it with no guest, through the whole block stack, a mirror included.

Uses qemu-io inside the domain's own QEMU, by its monitor (`qemu-io -d` of QEMU's HMP). Its requests come from no guest
device: an error is returned here and does not pause the domain, whatever the disk's error policy says.
"""

import itertools
import os
import re
import threading
import time
from collections import defaultdict
from pathlib import Path

import libvirt_qemu

from testbed.libvirt_host import LibvirtHost
from testbed.processes import TestbedError

_WHOLE = re.compile(r"^(?:wrote|read) (\d+)/\d+ bytes at offset \d+$", re.MULTILINE)
# libvirt's own lines in the same log begin with their time.
_LIBVIRT_LINE = re.compile(r"^\d{4}-\d{2}-\d{2} [\d:.+]+: .*$", re.MULTILINE)
_NUMBERS = itertools.count(1)
# A command's answer is told from others' by its place in the log.
_ONE_AT_A_TIME: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
_ANSWER_TIMEOUT_SECONDS = 30


def write_pattern(
    host: LibvirtHost, domain: str, *, offset: int, length: int, pattern: int, device: str = "virtio-disk0"
) -> None:
    """Write `length` bytes of the value `pattern` (0 to 255) at byte `offset` of a domain's disk.

    `device` is the alias of the disk's device: virtio-disk0 is the first virtio disk.

    Raises:
        TestbedError: QEMU did not write all of it, for instance as the storage is full.
    """
    _transfer(host, domain, device, f"write -P {pattern} {offset} {length}", length)


def write_zeroes(
    host: LibvirtHost, domain: str, *, offset: int, length: int, unmap: bool, device: str = "virtio-disk0"
) -> None:
    """Write zeroes to `length` bytes at byte `offset` of a domain's disk as a guest's own command for it does.

    With `unmap` the volume may give back what these bytes take: what is read afterwards is zeroes all the same, which a
    discard does not promise.

    Raises:
        TestbedError: QEMU did not write all of it.
    """
    _transfer(host, domain, device, f"write -z {'-u ' if unmap else ''}{offset} {length}", length)


def verify_pattern(
    host: LibvirtHost, domain: str, *, offset: int, length: int, pattern: int, device: str = "virtio-disk0"
) -> None:
    """Read `length` bytes at byte `offset` of a domain's disk and compare each with the value `pattern`.

    Raises:
        TestbedError: a byte differs, or the read failed.
    """
    _transfer(host, domain, device, f"read -P {pattern} {offset} {length}", length)


def flush(host: LibvirtHost, domain: str, *, device: str = "virtio-disk0") -> None:
    """Flush a domain's disk.

    Raises:
        TestbedError: QEMU could not.
    """
    if answer := _ask(host, domain, device, "flush"):
        raise TestbedError(f"flush of {device} of {domain}: {answer}")


def _transfer(host: LibvirtHost, domain: str, device: str, command: str, length: int) -> None:
    answer = _ask(host, domain, device, command)
    whole = _WHOLE.search(answer)
    if whole is None or int(whole[1]) != length or "verification failed" in answer:
        raise TestbedError(f"{command} on {device} of {domain}: {answer or 'no answer'}")


def _ask(host: LibvirtHost, domain: str, device: str, command: str) -> str:
    # qemu-io prints to QEMU's stdout, which is the domain's log: the monitor answers nothing and has no exit status.
    # A second, unknown command is refused there by its name, which marks the end of the first one's answer.
    log = host.qemu_log_directory / f"{domain}.log"
    end = f"end-of-{os.getpid()}-{next(_NUMBERS)}"
    with _ONE_AT_A_TIME[log]:
        start = log.stat().st_size
        with host.domain(domain) as found:
            for each in (command, end):
                monitor = f'qemu-io -d /machine/peripheral/{device}/virtio-backend "{each}"'
                flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
                if said := libvirt_qemu.qemuMonitorCommand(found, monitor, flags).strip():
                    raise TestbedError(f"{command} on {device} of {domain}: {said}")
        return _read_until(log, start, f'command "{end}" not found')


def _read_until(log: Path, start: int, end: str) -> str:
    deadline = time.monotonic() + _ANSWER_TIMEOUT_SECONDS
    while True:
        with log.open("rb") as opened:
            opened.seek(start)
            text = opened.read().decode(errors="replace")
        answer, marked, _ = text.partition(end)
        if marked:
            return _LIBVIRT_LINE.sub("", answer).strip()
        if time.monotonic() > deadline:
            raise TestbedError(f"{log} has no {end!r} after {_ANSWER_TIMEOUT_SECONDS} s, only: {text}")
        time.sleep(0.01)
