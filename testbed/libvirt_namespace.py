"""The first process of a libvirt host's namespaces: lays its directories over the system's, then waits for the end.

Run by `testbed.libvirt_host` inside new mount, network and pid namespaces, as process 1 of the last: when it ends, the
kernel kills every other process in there. Its one argument is the host's directory.
"""

import signal
import subprocess
import sys
from pathlib import Path

# Each directory of the host with the system's directory it hides.
OVERLAID = {
    "run": "/run",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
READY = "namespace-ready"


def main() -> None:
    """Mount, say so with the file `READY` in the host's run directory, and end when stdin does."""
    directory = Path(sys.argv[1])
    for name, hidden in OVERLAID.items():
        subprocess.run(["mount", "--bind", directory / name, hidden], check=True)
    # This becomes the daemonized QEMUs' parent. Ignoring their ends has the kernel reap them: libvirt takes a zombie
    # for alive.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Path("/run", READY).touch()
    sys.stdin.read()


if __name__ == "__main__":
    main()
