"""Which clusters there are on this machine, who runs each, and the end of what a killed one left.

A cluster's claim is a file in the cache, locked for as long as the process that runs it lives. The kernel drops the
lock with the process; the file then tells what to remove. One that failed keeps its claim, and so its logs, until the
next cluster starts or is ended.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed import cgroups, processes
from testbed.binaries import cache_directory
from testbed.cluster import loops
from testbed.processes import TestbedError

_TIMEOUT_SECONDS = 60


def name_of(directory: Path) -> str:
    """Return the name of the cluster in `directory`: its control group's and its interface's."""
    return f"dm-{hashlib.sha256(bytes(directory.resolve())).hexdigest()[:8]}"


def log_of(directory: Path) -> Path:
    """Return where a cluster in the background prints to."""
    return _claims() / f"{name_of(directory)}.log"


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Claim `directory` for a cluster of this process, and give the claim back when the block ends well.

    Raises:
        TestbedError: another process runs one there.
    """
    file = _file(directory)
    descriptor = _locked(file, create=True)
    if descriptor is None:
        raise TestbedError(f"A cluster runs in {directory} already: process {holder(directory)}.")
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps({"directory": str(directory), "process": os.getpid()}).encode())
        yield
        file.unlink()
    finally:
        os.close(descriptor)


def holder(directory: Path) -> int | None:
    """Return the number of the process that runs a cluster in `directory`, None when there is none."""
    file = _file(directory)
    with suppress(FileNotFoundError):
        descriptor = _locked(file)
        if descriptor is not None:
            os.close(descriptor)
            return None
        with suppress(json.JSONDecodeError):
            return int(json.loads(file.read_text())["process"])
    return None


def remove_abandoned() -> list[Path]:
    """Remove all that is left of clusters that nobody runs any more, and return their directories.

    Raises:
        TestbedError: some of it cannot be removed.
    """
    removed = []
    for file in sorted(_claims().glob("*.claim")):
        try:
            descriptor = _locked(file)
        except FileNotFoundError:
            continue
        if descriptor is None:
            continue
        try:
            with suppress(json.JSONDecodeError):
                directory = Path(json.loads(file.read_text())["directory"])
                _remove(directory)
                removed.append(directory)
            file.unlink()
        finally:
            os.close(descriptor)
    return removed


def remains(directory: Path) -> list[str]:
    """Return what there is of a cluster in `directory` beside its files, each as a sentence's part."""
    name = name_of(directory)
    interface = Path("/sys/class/net", name)
    return [
        *(f"process {number} ({program})" for number, program in _processes(directory)),
        *(f"control group {each}" for each in cgroups.existing(name)),
        *(f"loop device {each}" for each in loops.attached(directory)),
        *([f"interface {name}"] if interface.exists() else []),
    ]


def _remove(directory: Path) -> None:
    # The kernel is at it since the process that ran the cluster has ended.
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while left := _processes(directory):
        if time.monotonic() > deadline:
            raise TestbedError(f"Of the cluster in {directory} these processes are left: {left}. End them.")
        time.sleep(0.05)
    loops.detach(directory)
    name = name_of(directory)
    cgroups.remove(name)
    if Path("/sys/class/net", name).exists():
        # Unless the kernel is faster.
        with suppress(TestbedError):
            processes.run(["ip", "link", "delete", name])
    if directory.exists():
        shutil.rmtree(directory)


def _processes(directory: Path) -> list[tuple[int, str]]:
    """Return number and name of every process that a cluster in `directory` runs.

    Such a process has mounts of the directory, or names it and has a network that is not this process's: a kubectl or
    an editor of somebody who looks at the cluster is none of it.
    """
    own_network = Path("/proc/self/ns/net").readlink()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        # One that ends while it is looked at cannot be read.
        with suppress(OSError):
            told = (entry / "mountinfo").read_text(errors="replace")
            if (entry / "ns" / "net").readlink() != own_network:
                told += (entry / "cmdline").read_text(errors="replace")
            if f"{directory}/" in told:
                found.append((int(entry.name), (entry / "comm").read_text().strip()))
    return found


def _claims() -> Path:
    directory = cache_directory() / "clusters"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _file(directory: Path) -> Path:
    return _claims() / f"{name_of(directory)}.claim"


def _locked(file: Path, *, create: bool = False) -> int | None:
    """Open and lock a claim, None when another has it.

    Raises:
        FileNotFoundError: there is no such claim.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # Its last holder may have removed it between the two calls.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        os.close(descriptor)
        if not create and not file.exists():
            raise FileNotFoundError(file)
