"""Everything that runs before the first move: the cluster, the libvirt host, the guest, the operator and the agent."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from testbed.binaries import KUBERNETES_VERSION
from testbed.control_plane import ControlPlane, running_control_plane
from testbed.demo import manifests
from testbed.demo.disk import RECORD_BYTES, GuestDisk, make_disk
from testbed.demo.manifests import NAMESPACE
from testbed.demo.screen import Screen, mebibytes
from testbed.guest.domain import Disk, Writer
from testbed.guest.running import Guest, running_guest
from testbed.libvirt_host import LibvirtHost, running_libvirt
from testbed.programs import Program, running_agent, running_operator

NODE = "node-a"
VIRTUAL_MACHINE = "web-1"
_RECORDS_PER_SECOND = 96
_BOOT_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Stage:
    """What runs. `directory` holds it all."""

    directory: Path
    screen: Screen
    control_plane: ControlPlane
    host: LibvirtHost
    guest: Guest
    disk: GuestDisk
    agent: Program

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator, without showing it."""
        return self.control_plane.kubectl(*arguments, stdin=stdin)

    def show_kubectl(self, *arguments: str) -> None:
        """Run kubectl and show the command and its answer."""
        self.screen.say(f"$ kubectl {' '.join(arguments)}")
        self.screen.show(self.kubectl(*arguments))

    def show_apply(self, manifest: str) -> None:
        """Apply a manifest and show both it and the answer."""
        self.screen.say("$ kubectl apply -f -")
        self.screen.show(manifest)
        self.screen.show(self.kubectl("apply", "--filename=-", stdin=manifest))


def set_up(running: ExitStack, directory: Path, screen: Screen, *, held_bytes: int) -> Stage:
    """Start everything; `running` ends it, in the reverse order. The disk holds `held_bytes` of data to begin with.

    Raises:
        TestbedError: a part did not start.
    """
    screen.say(f"All is in {directory}, and goes with the demo. Ctrl-C ends it at any time.")
    control_plane = running.enter_context(running_control_plane(directory / "control-plane"))
    screen.say(f"The control plane is up: etcd and kube-apiserver {KUBERNETES_VERSION}.")
    control_plane.install_manifests()
    control_plane.create_node(NODE, {})
    control_plane.kubectl("create", "namespace", NAMESPACE)
    screen.say(f"deploy/base is applied; there are the Node {NODE} and the namespace {NAMESPACE}.")
    host = running.enter_context(running_libvirt(directory / "libvirt"))
    screen.say("libvirtd is up, in namespaces of its own.")
    for domain in (manifests.FILES, manifests.LOOPS):
        (directory / domain).mkdir()
    volume = directory / manifests.FILES / f"{VIRTUAL_MACHINE}.qcow2"
    disk = make_disk(volume, held_bytes=held_bytes)
    writer = Writer(disk.layout, records_per_second=_RECORDS_PER_SECOND)
    guest = running.enter_context(
        running_guest(host, VIRTUAL_MACHINE, [Disk(volume)], writer=writer, directory=directory)
    )
    screen.say(
        f"The VM {VIRTUAL_MACHINE} boots Linux. Its disk vda is a qcow2 file that holds {mebibytes(held_bytes)}."
    )
    running.enter_context(running_operator(control_plane, directory))
    agent = running.enter_context(running_agent(control_plane, host, NODE, directory))
    screen.say(f"The operator is started, and the agent of {NODE}.")
    stage = Stage(directory, screen, control_plane, host, guest, disk, agent)
    stage.show_apply(manifests.storage_domains(directory))
    stage.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "storagedomains", "--all")
    stage.show_kubectl("get", "storagedomains")
    guest.console.wait_for_record(0, timeout_seconds=_BOOT_TIMEOUT_SECONDS)
    rate = mebibytes(RECORD_BYTES * _RECORDS_PER_SECOND)
    screen.say(f"The guest writes numbered, checksummed records of {RECORD_BYTES // 1024} KiB, up to {rate} a second.")
    name = "{.status.virtualMachines[0].name}"
    stage.kubectl("wait", f"--for=jsonpath={name}={VIRTUAL_MACHINE}", "--timeout=60s", f"hypervisor/{NODE}")
    return stage


def logs(directory: Path) -> list[Path]:
    """Return the logs that tell most of what went wrong, those that are there."""
    names = (
        "operator.log",
        f"agent-{NODE}.log",
        f"{VIRTUAL_MACHINE}.console.log",
        f"libvirt/log/qemu/{VIRTUAL_MACHINE}.log",
    )
    return [directory / name for name in names if (directory / name).exists()]
