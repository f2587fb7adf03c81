"""lvmlockd and sanlock of a host, as daemons of their own: two of them in one machine lock like two hosts.

Their locks are on the device, and each daemon has a host id and a socket of its own. What two hosts would not share is
the kernel's device-mapper: a volume that the other one has locked is taken out of it again.
"""

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import processes
from testbed.lvm_lane.inside import RESULTS
from tests.waiting import wait_until

_IO_SECONDS = 5
"""sanlock waits for some times as long whenever a host joins; 10 s is its default."""

_LOCK_DAEMON_SOCKET = Path("/run/lvm/lvmlockd.socket")
_LOCK_DAEMON_PID = Path("/run/lvmlockd.pid")
"""Where it is not there, lvm2 asks no lvmlockd at all, whatever the socket."""

_LV_LOCK = re.compile(r"^LK LV (?P<mode>\w+) (?P<uuid>\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class LockManager:
    """A host's lock managers, which run."""

    host_id: int
    environment: Mapping[str, str]

    def run(self, command: str, *arguments: str) -> str:
        """Run a command of LVM on this host, which must succeed."""
        done = self.try_run(command, *arguments)
        assert done.returncode == 0, f"{command} {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def try_run(self, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of LVM on this host."""
        return subprocess.run(
            [command, "--config", f"local/host_id={self.host_id}", *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
        )

    def locked_volumes(self) -> dict[str, str]:
        """Return the mode in which this host has locked each volume, by the volume's uuid: ex or sh."""
        printed = subprocess.run(
            ["lvmlockctl", "--info"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **self.environment},
        ).stdout
        return {found["uuid"]: found["mode"] for found in _LV_LOCK.finditer(printed)}

    @contextmanager
    def holding(self, group: str, volume: str, *, mode: str = "ex") -> Iterator[None]:
        """Have the volume active on this host for the block, and only its lock in the machine's kernel."""
        self.run("lvchange", "--activate", f"{mode[0]}y", f"{group}/{volume}")
        device = f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
        subprocess.run(["dmsetup", "remove", "--retry", device], check=True)
        try:
            yield
        finally:
            self.run("lvchange", "--activate", "n", f"{group}/{volume}")


@contextmanager
def running_lock_manager(directory: Path, host_id: int, *, is_default: bool) -> Iterator[LockManager]:
    """Run both daemons; with `is_default`, where every LVM command finds them."""
    root = directory / f"host-{host_id}"
    root.mkdir()
    lock_daemon = _LOCK_DAEMON_SOCKET if is_default else root / "lvmlockd.socket"
    pid_file = _LOCK_DAEMON_PID if is_default else root / "lvmlockd.pid"
    # Not by lvmlockd's option: it frees the variable's value then, and crashes.
    added = {"SANLOCK_RUN_DIR": str(root), "LVM_LVMLOCKD_SOCKET": str(lock_daemon)}
    # No watchdog, which would end the machine where a test ends the daemon.
    sanlock = ["sanlock", "daemon", "-D", "-w", "0", "-U", "root", "-G", "root", "-e", f"host-{host_id}"]
    lvmlockd = [
        *["lvmlockd", "--daemon-debug", "--gl-type", "sanlock", "--host-id", str(host_id)],
        *["--sanlock-timeout", str(_IO_SECONDS), "--pid-file", str(pid_file)],
        *["--adopt-file", str(root / "lvmlockd.adopt")],
    ]
    with ExitStack() as running:
        for command, answers_at in ((sanlock, root / "sanlock.sock"), (lvmlockd, lock_daemon)):
            running.enter_context(_running(command, answers_at, f"{command[0]}-{host_id}", {**os.environ, **added}))
        yield LockManager(host_id, added)


@contextmanager
def _running(command: list[str], listens_at: Path, name: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Run a daemon for the block, which begins when the daemon listens at its socket."""
    listens_at.unlink(missing_ok=True)
    log = RESULTS / f"{name}.log"
    process = processes.start(command, log=log, environment=environment)

    def listens() -> bool:
        assert process.poll() is None, f"{name} has ended: {log.read_text()}"
        return _listens(listens_at)

    try:
        wait_until(listens, f"{name} listens")
        yield
    finally:
        # It does not end at a signal while it has locks.
        process.kill()
        process.wait()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
