"""A libvirt host of its own: libvirtd, virtlogd and QEMUs that share nothing with the system's libvirt.

It has its own mount, network and pid namespaces; /dev and all files but libvirt's are the system's. Several run at
once.
"""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt

from testbed import cgroups, libvirt_namespace, processes
from testbed.processes import TestbedError

_SOCKET_PATH_BYTES = 107  # sun_path in unix(7), without its final zero

_KVM = Path("/dev/kvm")
_MACHINE_GROUP = re.compile(r"\bmachine/qemu-[^/\n]+")
_LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:stderr"
"""
# Never rotated: testbed.qemu_io finds its answers in the logs.
_VIRTLOGD_CONF = """\
log_outputs = "2:stderr"
max_size = 0
"""


@dataclass(frozen=True)
class QemuSettings:
    """How libvirt runs QEMU: what qemu.conf says. The defaults are those of Debian's package, without AppArmor.

    `changes_owners` is dynamic_ownership: libvirt gives a VM's volumes to QEMU's user while it runs.
    `has_own_dev` is namespaces: each QEMU has a /dev of its own, with device nodes that only it sees.
    """

    user: str = "libvirt-qemu"
    group: str = "kvm"
    changes_owners: bool = True
    has_own_dev: bool = True
    has_control_groups: bool = True

    def document(self) -> str:
        """Return the text of qemu.conf."""
        lines = [
            f'user = "{self.user}"',
            f'group = "{self.group}"',
            f"dynamic_ownership = {int(self.changes_owners)}",
            f"remember_owner = {int(self.changes_owners)}",
            'security_driver = "none"',
            'namespaces = ["mount"]' if self.has_own_dev else "namespaces = []",
            *([] if self.has_control_groups else ["cgroup_controllers = []"]),
        ]
        return "".join(f"{line}\n" for line in lines)


STOCK = QemuSettings()
AS_ROOT = QemuSettings("root", "root", changes_owners=False, has_own_dev=False, has_control_groups=False)


class LibvirtHost:
    """A running libvirt host. Made by `running_libvirt`."""

    def __init__(self, directory: Path, namespaces: subprocess.Popen[bytes], qemu: QemuSettings) -> None:
        self._directory = directory
        self._qemu = qemu
        self._namespaces = namespaces
        self._daemon: subprocess.Popen[bytes] | None = None
        self._log_daemon: subprocess.Popen[bytes] | None = None
        self.log = directory / "libvirtd.log"
        self.qemu_log_directory = directory / "log" / "qemu"
        self.socket_directory = directory / "run" / "libvirt"
        self.uri = uri(directory)

    def start_daemon(self) -> None:
        """Start libvirtd and wait until it answers; it finds the QEMUs that run already."""
        if self._daemon is not None:
            raise TestbedError("libvirtd runs already.")
        self._daemon = self._start("libvirtd", log=self.log)
        processes.wait_for(
            self._answers, what=f"Waiting for libvirtd at {self.uri}", process=self._daemon, log=self.log
        )

    def stop_daemon(self) -> None:
        """Ask libvirtd to end and wait for its end; QEMUs go on."""
        self._end_daemon("TERM")

    def kill_daemon(self) -> None:
        """Kill libvirtd at once (SIGKILL) and wait for its end; QEMUs go on."""
        self._end_daemon("KILL")

    def restart_daemon(self) -> None:
        """Stop libvirtd and start it again; QEMUs go on."""
        self.stop_daemon()
        self.start_daemon()

    def set_qemu(self, qemu: QemuSettings) -> None:
        """Change how libvirt runs QEMU: libvirtd starts again, and QEMUs go on as they are."""
        self.stop_daemon()
        (self._directory / "etc" / "qemu.conf").write_text(qemu.document())
        self._qemu = qemu
        self.start_daemon()

    @property
    def daemon_pid(self) -> int:
        """The process id of the libvirtd that runs, as the system sees it.

        Raises:
            TestbedError: libvirtd does not run.
        """
        if self._daemon is None:
            raise TestbedError("libvirtd does not run.")
        # nsenter has one child: libvirtd.
        number = self._daemon.pid
        return int(Path("/proc", str(number), "task", str(number), "children").read_text())

    def give_to_qemu(self, path: Path) -> None:
        """Make QEMU's user the owner of a file or directory of which libvirt does not know."""
        shutil.chown(path, self._qemu.user, self._qemu.group)

    def freeze_daemon(self) -> None:
        """Stop libvirtd where it is (SIGSTOP): connections are taken, and nothing is answered."""
        if self._daemon is None:
            raise TestbedError("libvirtd does not run.")
        self._signal_daemon("STOP")
        # nsenter stops itself with its child; woken before that, it would never end.
        status = Path("/proc", str(self._daemon.pid), "status")
        processes.wait_for(
            lambda: "State:\tT" in status.read_text(), what="Freezing libvirtd", process=self._daemon, log=self.log
        )

    def thaw_daemon(self) -> None:
        """Let a frozen libvirtd go on."""
        if self._daemon is None:
            raise TestbedError("libvirtd does not run.")
        # nsenter passes it on.
        self._daemon.send_signal(signal.SIGCONT)

    def forget(self, domain: str) -> None:
        """Have a libvirtd that was killed take a running domain for shut off from its next start on; its QEMU goes on.

        So it ends when libvirtd is killed while it notes the end of a block job: it cannot read again what it wrote.
        """
        (self.socket_directory / "qemu" / f"{domain}.xml").unlink()

    def end_qemu(self, domain: str) -> None:
        """Ask a domain's QEMU to end (SIGTERM), whatever libvirtd knows of it."""
        self.signal_qemu(domain, "TERM")

    def signal_qemu(self, domain: str, signal_name: str) -> None:
        """Send a domain's QEMU a signal, say STOP, whatever libvirtd knows of it."""
        number = (self.socket_directory / "qemu" / f"{domain}.pid").read_text().strip()
        processes.run(self.inside(["kill", "-s", signal_name, number]))

    def monitor_socket(self, domain: str) -> Path:
        """Return the socket of a running domain's monitor, which libvirtd holds for as long as it runs."""
        (found,) = (self._directory / "lib" / "qemu").glob(f"domain-*-{domain}/monitor.sock")
        return found

    def virsh(self, *arguments: str) -> str:
        """Run virsh on this host and return what it printed.

        Raises:
            TestbedError: virsh failed; the message has its answer.
        """
        # No keep-alives: for want of one, libvirt's client closes the connection, and its call waits for ever.
        return processes.run(["virsh", "--quiet", "--keepalive-interval=0", "-c", self.uri, *arguments])

    @contextmanager
    def domain(self, name: str) -> Iterator[libvirt.virDomain]:
        """A domain by libvirt's own binding, for the time of the block: what is asked often would wait for many virsh.

        Raises:
            TestbedError: libvirt refused something in the block; the message has its answer.
        """
        with self.connection() as connection:
            yield connection.lookupByName(name)

    @contextmanager
    def connection(self) -> Iterator[libvirt.virConnect]:
        """A connection by libvirt's own binding, for the time of the block.

        Raises:
            TestbedError: libvirt refused something in the block; the message has its answer.
        """
        try:
            connection = libvirt.open(self.uri)
            try:
                yield connection
            finally:
                connection.close()
        except libvirt.libvirtError as error:
            raise TestbedError(f"{self.uri}: {error}") from error

    def start_log_daemon(self) -> None:
        """Start virtlogd, which keeps the consoles and logs of the QEMUs, and wait for its socket."""
        log = self._directory / "virtlogd.log"
        self._log_daemon = self._start("virtlogd", log=log)
        listening = self.socket_directory / "virtlogd-sock"
        processes.wait_for(listening.exists, what="Waiting for virtlogd", process=self._log_daemon, log=log)

    def inside(self, command: Sequence[str | Path], *, network: Path | None = None) -> list[str | Path]:
        """Return the command that runs `command` in the host's namespaces, as a child of what is started.

        A `network` is the file of another network namespace, in place of the host's own.
        """
        own = Path("/proc", str(self._namespaces.pid), "ns")
        network = network or own / "net"
        return [
            *["nsenter", f"--mount={own / 'mnt'}", f"--net={network}", f"--pid={own / 'pid_for_children'}", "--"],
            *command,
        ]

    def end(self) -> None:
        """End all processes of the host, QEMUs too, and wait until the kernel has done it."""
        groups = self._control_groups()
        # Process 1 ends with its stdin; unshare returns when everything else in there has ended.
        if self._namespaces.stdin is not None:
            self._namespaces.stdin.close()
        self._namespaces.wait(60)
        for group in groups:
            # Another host may run a VM of the same name, in the same group.
            cgroups.remove_unused(group)
        for daemon in (self._daemon, self._log_daemon):
            if daemon is not None:
                daemon.wait(60)

    def _control_groups(self) -> set[str]:
        """Return the control groups that libvirt made for the QEMUs that run: only it would remove them."""
        if self._namespaces.poll() is not None:
            return set()
        found = processes.run(self.inside(["sh", "-c", "cat /proc/[0-9]*/cgroup 2>/dev/null; true"]))
        return set(_MACHINE_GROUP.findall(found))

    def _start(self, program: str, *, log: Path) -> subprocess.Popen[bytes]:
        pid_file = f"/run/libvirt/{program}.pid"
        config = f"/etc/libvirt/{program}.conf"
        return processes.start(self.inside([program, "--config", config, "--pid-file", pid_file]), log=log)

    def _end_daemon(self, signal_name: str) -> None:
        if self._daemon is None:
            raise TestbedError("libvirtd does not run.")
        self._signal_daemon(signal_name)
        self._daemon.wait(60)
        self._daemon = None

    def _signal_daemon(self, signal_name: str) -> None:
        # The number in the file is the daemon's in its own pid namespace, so the signal is sent from in there.
        number = (self.socket_directory / "libvirtd.pid").read_text().strip()
        processes.run(self.inside(["kill", "-s", signal_name, number]))

    def _answers(self) -> bool:
        try:
            self.virsh("version")
        except TestbedError:
            return False
        return True


def uri(directory: Path) -> str:
    """Return the libvirt URI of the host that keeps its state in `directory`.

    Raises:
        TestbedError: the directory's name is too long for a socket in it.
    """
    socket = directory / "run" / "libvirt" / "libvirt-sock"
    if len(bytes(socket)) > _SOCKET_PATH_BYTES:
        raise TestbedError(f"{socket} is longer than a socket's name may be: choose a directory with a shorter name.")
    return f"qemu+unix:///system?socket={socket}"


@contextmanager
def running_libvirt(
    directory: Path, *, mounts: Mapping[str, Path] | None = None, qemu: QemuSettings = STOCK
) -> Iterator[LibvirtHost]:
    """Run a libvirt host that keeps its state in `directory` (made where missing).

    QEMU's user must be able to pass every directory above the volumes that its VMs use.

    Its processes alone see `mounts`: over each of these directories of the system, a directory of one's own. One over a
    parent of libvirt's directories holds an empty directory for each of them.

    At the end, and when this process dies, the kernel kills libvirtd, virtlogd and every QEMU, and drops the mounts.

    Raises:
        TestbedError: a daemon did not start.
    """
    directory = directory.resolve()
    uri(directory)
    for name in libvirt_namespace.OVERLAID:
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "run" / libvirt_namespace.READY).unlink(missing_ok=True)
    (directory / "run" / "libvirt").mkdir(exist_ok=True)
    (directory / "etc" / "qemu.conf").write_text(qemu.document())
    (directory / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF)
    (directory / "etc" / "virtlogd.conf").write_text(_VIRTLOGD_CONF)
    _give_kvm_to_its_group()
    with ExitStack() as running:
        host = LibvirtHost(directory, _make_namespaces(directory, mounts or {}), qemu)
        running.callback(host.end)
        host.start_log_daemon()
        host.start_daemon()
        yield host


def _give_kvm_to_its_group() -> None:
    """Make /dev/kvm as udev does, where no udev has: libvirt probes a QEMU that may not open it anew for each VM."""
    if _KVM.exists():
        shutil.chown(_KVM, group="kvm")
        _KVM.chmod(0o660)


def _make_namespaces(directory: Path, mounts: Mapping[str, Path]) -> subprocess.Popen[bytes]:
    log = directory / "namespace.log"
    namespaces = processes.start(
        # Mounts of the system arrive inside; none made inside goes out.
        [
            *["unshare", "--mount", "--propagation", "slave", "--net", "--pid", "--fork", "--kill-child"],
            *["--mount-proc", sys.executable, "-I", libvirt_namespace.__file__, str(directory)],
            *(str(part) for pair in mounts.items() for part in pair),
        ],
        log=log,
        stdin=subprocess.PIPE,
    )
    ready = directory / "run" / libvirt_namespace.READY
    try:
        processes.wait_for(ready.exists, what="Making libvirt's namespaces", process=namespaces, log=log)
    except TestbedError:
        namespaces.communicate()
        raise
    return namespaces
