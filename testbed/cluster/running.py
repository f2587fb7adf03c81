"""A whole cluster on one machine."""

import ipaddress
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import cgroups, processes
from testbed.binaries import cluster_binaries
from testbed.cluster import claims, services
from testbed.cluster.network import Network, running_network
from testbed.cluster.node import HIDDEN, Node, NodeSettings, running_node
from testbed.cluster.services import running_proxy, running_services
from testbed.control_plane import ControlPlane, Ports, Site, running_control_plane
from testbed.images import Images, build_images
from testbed.processes import TestbedError

_SERVICE_ADDRESSES = "10.96.0.0/16"
_POD_ADDRESSES = ipaddress.IPv4Network("10.244.0.0/16")
_PORTS = Ports(etcd=2379, etcd_peer=2380, api=6443)


@dataclass(frozen=True)
class Cluster:
    """A running cluster. Made by `running_cluster`."""

    control_plane: ControlPlane
    nodes: Mapping[str, Node]

    @property
    def admin_kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for this machine's kubectl."""
        return self.control_plane.admin_kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl, as `ControlPlane.kubectl` does."""
        return self.control_plane.kubectl(*arguments, stdin=stdin, kubeconfig=kubeconfig)

    def load(self, images: Images) -> None:
        """Give every node the operator's and the agent's image, where it does not have this very one."""
        with ThreadPoolExecutor(max_workers=len(self.nodes)) as pool:
            list(pool.map(lambda node: node.load(images.operator, images.agent), self.nodes.values()))


@contextmanager
def running_cluster(
    directory: Path, *, nodes: Sequence[str] = ("node-a",), images: Images | None = None
) -> Iterator[Cluster]:
    """Run a cluster with these nodes, all Ready, that keeps its state in `directory` (new, or empty).

    Every node has the images: those of the checkout as it is now unless given.

    At the end nothing runs, and nothing is mounted; the directory stays, for its logs. When this process dies, the
    kernel ends all that ran; the control groups, loop devices and files that are left go when the next cluster starts.

    Raises:
        TestbedError: a part could not be had, or did not become ready.
    """
    directory = directory.resolve()
    claims.remove_abandoned()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise TestbedError(f"{directory} is not empty: a cluster starts in a new directory.")
    if any(directory.is_relative_to(hidden) for hidden in HIDDEN):
        raise TestbedError(f"{directory} is hidden from the nodes, which have a {', '.join(HIDDEN)} of their own.")
    binaries = cluster_binaries()
    images = images or build_images()
    group = claims.name_of(directory)
    # One lock for all that change the rules, as all share them.
    environment = {**os.environ, "XTABLES_LOCKFILE": str(directory / "xtables.lock")}
    certificate = _make_kubelet_client_certificate(directory)
    with ExitStack() as running:
        running.enter_context(claims.claimed(directory))
        network = running.enter_context(
            running_network(group, nodes=len(nodes), services=_SERVICE_ADDRESSES, log=directory / "network.log")
        )
        settings = [
            NodeSettings(
                name=node,
                directory=directory / node,
                network=network,
                index=index,
                pod_addresses=str(list(_POD_ADDRESSES.subnets(new_prefix=24))[index]),
                control_group=f"{group}/{node}",
                kubelet=binaries.kubelet,
                images=(images.pause, images.operator, images.agent),
                pause_image=images.pause,
                client_authority=certificate,
                environment=environment,
            )
            for index, node in enumerate(nodes)
        ]
        running.callback(cgroups.remove, group)
        control_plane, *started = _entered(
            running,
            running_control_plane(directory / "control-plane", _site(network, nodes, certificate)),
            *(running_node(each) for each in settings),
        )
        cluster = Cluster(control_plane, {node.name: node for node in started})
        controllers = running.enter_context(running_services(control_plane, binaries, network, directory))
        for name, node in cluster.nodes.items():
            node.start_kubelet(control_plane.user_kubeconfig(_node_user(name)))
        for name in nodes:
            # Of several that are missing, kubectl does not wait for any.
            cluster.kubectl("wait", "--for=create", "--timeout=60s", f"node/{name}")
        running.enter_context(
            running_proxy(
                control_plane,
                binaries.kube_proxy,
                network,
                directory,
                node=nodes[0],
                pod_addresses=str(_POD_ADDRESSES),
                environment=environment,
            )
        )
        cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *(f"node/{node}" for node in nodes))
        controllers.wait_until_schedulable(control_plane)
        yield cluster


def _site(network: Network, nodes: Sequence[str], certificate: Path) -> Site:
    return Site(
        address=network.address,
        ports=_PORTS,
        prefix=network.prefix,
        service_addresses=_SERVICE_ADDRESSES,
        users={
            services.CONTROLLERS: "",
            services.SCHEDULER: "",
            services.PROXY: "",
            **{_node_user(node): "system:nodes" for node in nodes},
        },
        api_server_options=(
            f"--kubelet-client-certificate={certificate}",
            f"--kubelet-client-key={_key(certificate)}",
            "--kubelet-preferred-address-types=InternalIP",
        ),
    )


def _node_user(node: str) -> str:
    return f"system:node:{node}"


def _make_kubelet_client_certificate(directory: Path) -> Path:
    """Make what the apiserver shows to the kubelets; signed by itself, it is its own authority."""
    certificate = directory / "kubelet-client.crt"
    command: list[str | Path] = ["openssl", "req", "-x509", "-nodes", "-days", "30"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-subj", "/O=system:masters/CN=kube-apiserver", "-out", certificate, "-keyout", _key(certificate)]
    processes.run(command)
    return certificate


def _key(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def _entered(running: ExitStack, *contexts: AbstractContextManager[Any]) -> list[Any]:
    """Enter contexts side by side, all of which `running` will leave, also when one of them fails."""
    stacks = [running.enter_context(ExitStack()) for _ in contexts]
    with ThreadPoolExecutor(max_workers=len(contexts)) as pool:
        return list(pool.map(ExitStack.enter_context, stacks, contexts))
