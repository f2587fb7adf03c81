"""Everything that runs before the first move: the cluster, the operator and the agent in it, and the guest."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from testbed.binaries import KUBERNETES_VERSION
from testbed.cluster import STORAGE_ROOT, Cluster, Node, running_cluster
from testbed.demo import manifests
from testbed.demo.clean_room import cluster_directory
from testbed.demo.disk import RECORD_BYTES, GuestDisk, make_disk
from testbed.demo.manifests import NAMESPACE
from testbed.demo.screen import Screen, mebibytes
from testbed.guest.domain import Disk, Writer
from testbed.guest.running import Guest, running_guest

NODE = "node-a"
VIRTUAL_MACHINE = "web-1"
_REPOSITORY = Path(__file__).resolve().parents[2]
_OVERLAY = Path("deploy", "overlays", "dev")
_SYSTEM_NAMESPACE = "diskmigration-system"
_RECORDS_PER_SECOND = 96
# A busy machine starts a guest without KVM slowly.
_BOOT_TIMEOUT_SECONDS = 180


@dataclass(frozen=True)
class Stage:
    """What runs. `directory` holds it all."""

    directory: Path
    screen: Screen
    cluster: Cluster
    node: Node
    guest: Guest
    disk: GuestDisk

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator, without showing it."""
        return self.cluster.kubectl(*arguments, stdin=stdin)

    def show_kubectl(self, *arguments: str) -> None:
        """Run kubectl and show the command and its answer."""
        self.screen.say(f"$ kubectl {' '.join(arguments)}")
        self.screen.show(self.kubectl(*arguments))

    def show_apply(self, manifest: str) -> None:
        """Apply a manifest and show both it and the answer."""
        self.screen.say("$ kubectl apply -f -")
        self.screen.show(manifest)
        self.screen.show(self.kubectl("apply", "--filename=-", stdin=manifest))

    def agent_log(self) -> list[str]:
        """Return what the node's agent has logged so far."""
        return self.kubectl("logs", f"--namespace={_SYSTEM_NAMESPACE}", "daemonset/diskmigration-agent").splitlines()


def set_up(running: ExitStack, directory: Path, screen: Screen, *, held_bytes: int) -> Stage:
    """Start everything; `running` ends it, in the reverse order. The disk holds `held_bytes` of data to begin with.

    Raises:
        TestbedError: a part did not start.
    """
    screen.say(f"All is in {directory}, and goes with the demo. Ctrl-C ends it at any time.")
    cluster = running.enter_context(running_cluster(cluster_directory(directory), nodes=[NODE]))
    node = cluster.nodes[NODE]
    screen.say(f"A Kubernetes {KUBERNETES_VERSION} cluster is up: its node {NODE} has a libvirtd of its own.")
    screen.say(f"$ kubectl apply -k {_OVERLAY}")
    screen.show(cluster.kubectl("apply", f"--kustomize={_REPOSITORY / _OVERLAY}"))
    cluster.kubectl("create", "namespace", NAMESPACE)
    for domain in (manifests.FILES, manifests.LOOPS):
        (node.storage / domain).mkdir()
    volume = STORAGE_ROOT / manifests.FILES / f"{VIRTUAL_MACHINE}.qcow2"
    disk = make_disk(node.on_this_machine(volume), held_bytes=held_bytes)
    writer = Writer(disk.layout, records_per_second=_RECORDS_PER_SECOND)
    guest = running.enter_context(
        running_guest(node.libvirt, VIRTUAL_MACHINE, [Disk(volume)], writer=writer, directory=directory)
    )
    screen.say(
        f"The VM {VIRTUAL_MACHINE} boots Linux. Its disk vda is a qcow2 file that holds {mebibytes(held_bytes)}."
    )
    stage = Stage(directory, screen, cluster, node, guest, disk)
    for program in ("deployment/diskmigration-operator", "daemonset/diskmigration-agent"):
        stage.kubectl("rollout", "status", program, f"--namespace={_SYSTEM_NAMESPACE}", "--timeout=90s")
    stage.show_kubectl("get", "pods", f"--namespace={_SYSTEM_NAMESPACE}", "--output=wide")
    stage.show_apply(manifests.storage_domains(STORAGE_ROOT))
    stage.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "storagedomains", "--all")
    stage.show_kubectl("get", "storagedomains")
    guest.console.wait_for_record(0, timeout_seconds=_BOOT_TIMEOUT_SECONDS)
    rate = mebibytes(RECORD_BYTES * _RECORDS_PER_SECOND)
    screen.say(f"The guest writes numbered, checksummed records of {RECORD_BYTES // 1024} KiB, up to {rate} a second.")
    name = "{.status.virtualMachines[0].name}"
    stage.kubectl("wait", f"--for=jsonpath={name}={VIRTUAL_MACHINE}", "--timeout=60s", f"libvirthost/{NODE}")
    return stage


def logs(directory: Path) -> list[Path]:
    """Return the logs that tell most of what went wrong, those that are there."""
    node = cluster_directory(directory) / NODE
    return [
        path
        for pattern in (f"log/pods/{_SYSTEM_NAMESPACE}_*/*/*.log", "kubelet.log", f"**/log/qemu/{VIRTUAL_MACHINE}.log")
        for path in sorted(node.glob(pattern))
    ] + list(directory.glob(f"{VIRTUAL_MACHINE}.console.log"))
