"""Programs that are there and do not answer: worse than those that are gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost


@contextmanager
def frozen_api_server(control_plane: ControlPlane) -> Iterator[None]:
    """SIGSTOPs the API server for the block: connections are taken, and nothing is answered."""
    number = _find("kube-apiserver", f"--secure-port={urlsplit(control_plane.url).port}")
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


@contextmanager
def standing_still(host: LibvirtHost, machine: str) -> Iterator[None]:
    """SIGSTOPs the VM's QEMU for the block: it answers nothing, and neither copies nor writes."""
    host.signal_qemu(machine, "STOP")
    try:
        yield
    finally:
        host.signal_qemu(machine, "CONT")


def _find(program: str, argument: str) -> int:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[0].endswith(program) and argument in words:
            return int(entry.parent.name)
    raise AssertionError(f"no {program} runs with {argument}")
