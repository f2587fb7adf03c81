"""The first process of a libvirt host's namespaces: lays its directories over the system's, then waits for the end.

Run by `testbed.libvirt_host` inside new mount, network and pid namespaces, as process 1 of the last: when it ends, the
kernel kills every other process in there. Its arguments are the host's directory and, in pairs, directories of the
system and what is laid over each of them first.
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
    first = zip(sys.argv[2::2], sys.argv[3::2], strict=True)
    libvirts = ((hidden, str(directory / name)) for name, hidden in OVERLAID.items())
    for hidden, laid_over in (*first, *libvirts):
        subprocess.run(["mount", "--bind", laid_over, hidden], check=True)
    # This becomes the daemonized QEMUs' parent. Ignoring their ends has the kernel reap them: libvirt takes a zombie
    # for alive.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Path("/run", READY).touch()
    sys.stdin.read()


if __name__ == "__main__":
    main()
