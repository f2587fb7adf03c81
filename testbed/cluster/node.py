"""A node: a libvirt host with a containerd and a kubelet beside its libvirtd.

They share its mount and pid namespaces, as on a real host: one /run, one /var/lib, one end. Their network is the
cluster's.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import cgroups, processes
from testbed.cluster import image_store, loops
from testbed.cluster.network import Network
from testbed.images import Image
from testbed.libvirt_host import LibvirtHost, running_libvirt

STORAGE_ROOT = Path("/var/lib/diskmigration")
"""Where a node's programs and pods find the directory that `Node.storage` is on this machine."""

# What the programs of a node keep is theirs alone: the system's directories are hidden behind the node's.
_OWN_DIRECTORIES = {"/var/lib": "lib", "/var/log": "log"}
HIDDEN = ("/run", *_OWN_DIRECTORIES)
"""The system's directories that a node does not see."""
_CONTAINERD_CONFIG = """\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# Kubernetes uses the first alone, and the others want their own file systems.
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", \
"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # The machine may itself be a container that must not lower its scores.
  restrict_oom_score_adj = true
  # A loaded profile would outlive the cluster.
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
"""


@dataclass(frozen=True)
class NodeSettings:
    """What a node needs of its cluster."""

    name: str
    directory: Path
    network: Network
    index: int
    pod_addresses: str
    control_group: str
    kubelet: Path
    images: tuple[Image, ...]
    pause_image: Image
    client_authority: Path
    """What signed the certificate that the apiserver shows to the kubelet."""
    environment: dict[str, str]


class Node:
    """A running node. Made by `running_node`."""

    def __init__(self, settings: NodeSettings, libvirt: LibvirtHost) -> None:
        self.name = settings.name
        self.directory = settings.directory
        self.libvirt = libvirt
        self.storage = _lib(settings) / STORAGE_ROOT.name
        self.containerd_socket = image_store.socket(settings.directory)
        self.containerd_log = settings.directory / "containerd.log"
        self.kubelet_log = settings.directory / "kubelet.log"
        self._settings = settings
        self._containerd: subprocess.Popen[bytes] | None = None
        self._kubelet: subprocess.Popen[bytes] | None = None

    def on_this_machine(self, path: Path) -> Path:
        """Return where this machine has a file that the node's programs find at `path`, below `STORAGE_ROOT`.

        Raises:
            ValueError: the path is not below it.
        """
        return self.storage / path.relative_to(STORAGE_ROOT)

    def load(self, *images: Image) -> None:
        """Give containerd images, each unless this very archive was the last under its name."""
        image_store.load(self.directory, *images)

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own client on the kubelet's images and containers and return what it printed.

        Raises:
            TestbedError: it failed; the message has its answer.
        """
        return image_store.ctr(self.directory, *arguments)

    def start_containerd(self) -> None:
        """Start containerd and wait until it answers; it finds the containers that run already."""
        settings = self._settings
        networks = settings.directory / "networks"
        networks.mkdir(exist_ok=True)
        (networks / "10-pods.conflist").write_text(json.dumps(_pod_network(settings), indent=2))
        config = settings.directory / "containerd.toml"
        config.write_text(
            _CONTAINERD_CONFIG.format(socket=self.containerd_socket, pause=settings.pause_image.name, networks=networks)
        )
        self._containerd = self._start(["containerd", f"--config={config}"], log=self.containerd_log)
        processes.wait_for(
            lambda: image_store.answers(self.directory),
            what=f"Waiting for containerd of {self.name}",
            process=self._containerd,
            log=self.containerd_log,
        )

    def start_kubelet(self, kubeconfig: Path) -> None:
        """Start the kubelet; it is ready when the Node is."""
        settings = self._settings
        config = settings.directory / "kubelet.json"
        config.write_text(json.dumps(_kubelet_config(settings, self.containerd_socket), indent=2))
        self._kubelet = self._start(
            [
                settings.kubelet,
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--node-ip={_address(settings)}",
            ],
            log=self.kubelet_log,
        )

    def stop_kubelet(self) -> None:
        """Ask the kubelet to end and wait for its end; the pods go on."""
        if self._kubelet is not None:
            _stop(self._kubelet)
            self._kubelet = None

    def stop_containerd(self) -> None:
        """Ask containerd to end and wait for its end; the containers go on."""
        if self._containerd is not None:
            _stop(self._containerd)
            self._containerd = None

    def wait(self) -> None:
        """Wait for the daemons' ends, after that of the namespaces."""
        for process in (self._kubelet, self._containerd):
            if process is not None:
                process.wait(60)

    def _start(self, command: list[str | Path], *, log: Path) -> subprocess.Popen[bytes]:
        inside = self.libvirt.inside(command, network=self._settings.network.file)
        return processes.start(inside, log=log, environment=self._settings.environment)


@contextmanager
def running_node(settings: NodeSettings) -> Iterator[Node]:
    """Run a node's libvirtd and containerd, with the images; its kubelet waits for `Node.start_kubelet`.

    At the end, and when this process dies, the kernel ends all its processes, its pods and QEMUs too, and its mounts.

    Raises:
        TestbedError: a daemon did not start.
    """
    with ExitStack() as running:
        for own in _OWN_DIRECTORIES.values():
            # libvirt's own directory is laid over this one.
            (settings.directory / own / "libvirt").mkdir(parents=True)
        (_lib(settings) / STORAGE_ROOT.name).mkdir()
        image_store.fill(settings.directory, _lib(settings) / "containerd", settings.images)
        cgroups.make(settings.control_group)
        running.callback(cgroups.remove, settings.control_group)
        running.callback(loops.detach, _lib(settings) / STORAGE_ROOT.name)
        mounts = {system: settings.directory / own for system, own in _OWN_DIRECTORIES.items()}
        libvirt = running.enter_context(running_libvirt(settings.directory / "libvirt", mounts=mounts))
        # Mounts of the node reach its pods, and theirs the node, where the pods ask for it.
        processes.run(libvirt.inside(["mount", "--make-rshared", "/"]))
        node = Node(settings, libvirt)
        node.start_containerd()
        node.load(*settings.images)
        yield node
        libvirt.end()
        node.wait()


def _lib(settings: NodeSettings) -> Path:
    return settings.directory / _OWN_DIRECTORIES["/var/lib"]


def _address(settings: NodeSettings) -> str:
    return settings.network.node_address(settings.index)


def _stop(nsenter: subprocess.Popen[bytes]) -> None:
    # The daemon is nsenter's only child; nsenter ends with it.
    children = Path("/proc", str(nsenter.pid), "task", str(nsenter.pid), "children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    nsenter.wait(60)


def _pod_network(settings: NodeSettings) -> dict[str, object]:
    bridge = {
        "type": "bridge",
        "bridge": f"pods{settings.index}",
        "isGateway": True,
        # A pod may be its own Service's.
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/var/lib/cni/networks",
            "ranges": [[{"subnet": settings.pod_addresses}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}


def _kubelet_config(settings: NodeSettings, containerd_socket: Path) -> dict[str, object]:
    # No name server: without one in the file, names are asked of the pod itself, and refused at once.
    resolver = settings.directory / "resolv.conf"
    resolver.write_text("")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(settings.client_authority)},
        },
        "authorization": {"mode": "Webhook"},
        "address": _address(settings),
        "readOnlyPort": 0,
        "healthzPort": 0,
        "containerRuntimeEndpoint": f"unix://{containerd_socket}",
        "resolvConf": str(resolver),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{settings.control_group}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "serializeImagePulls": False,
        # The machine's disk is not the node's: images stay, and pods, until it is really full.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }
