"""What makes a control plane a cluster's: the controllers, the scheduler, and the Services' addresses."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from testbed import processes
from testbed.binaries import ClusterBinaries
from testbed.cluster.network import Network
from testbed.control_plane import ControlPlane

CONTROLLERS = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
PROXY = "system:kube-proxy"


@dataclass(frozen=True)
class Controllers:
    """The running kube-controller-manager."""

    process: Popen[bytes]
    log: Path

    def wait_until_schedulable(self, control_plane: ControlPlane) -> None:
        """Wait until pods may run: no node is tainted as not ready, and their namespace has its account.

        A node's condition alone is not enough: until the controllers take its taint, a DaemonSet counts without it.
        """
        processes.wait_for(
            lambda: not control_plane.kubectl("get", "nodes", "--output=jsonpath={.items[*].spec.taints}"),
            what="Waiting for the nodes' taints to go",
            process=self.process,
            log=self.log,
        )
        control_plane.kubectl("wait", "--for=create", "--timeout=60s", "serviceaccount/default")


@contextmanager
def running_services(
    control_plane: ControlPlane,
    binaries: ClusterBinaries,
    network: Network,
    directory: Path,
) -> Iterator[Controllers]:
    """Run kube-controller-manager and kube-scheduler."""
    programs: dict[str, list[str | Path]] = {
        "kube-controller-manager": [
            binaries.kube_controller_manager,
            f"--kubeconfig={control_plane.user_kubeconfig(CONTROLLERS)}",
            f"--service-account-private-key-file={control_plane.service_account_key}",
            f"--root-ca-file={control_plane.authority}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
        "kube-scheduler": [
            binaries.kube_scheduler,
            f"--kubeconfig={control_plane.user_kubeconfig(SCHEDULER)}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
    }
    started: dict[str, Controllers] = {}
    with ExitStack() as running:
        for name, command in programs.items():
            log = directory / f"{name}.log"
            process = processes.start([*network.prefix, *command], log=log)
            running.callback(processes.stop, process, timeout_seconds=2)
            started[name] = Controllers(process, log)
        yield started["kube-controller-manager"]


@contextmanager
def running_proxy(
    control_plane: ControlPlane,
    program: Path,
    network: Network,
    directory: Path,
    *,
    node: str,
    pod_addresses: str,
    environment: dict[str, str],
) -> Iterator[None]:
    """Run kube-proxy, one for all nodes, as they share their network, and wait until the API's Service is served.

    It goes by the name of a `node` that exists: it waits half a minute for one that does not.
    """
    config, log = directory / "kube-proxy.json", directory / "kube-proxy.log"
    config.write_text(json.dumps(_proxy_config(control_plane, pod_addresses, node, network.address), indent=2))
    address = control_plane.kubectl("get", "service", "kubernetes", "--output=jsonpath={.spec.clusterIP}")
    with ExitStack() as running:
        process = processes.start([*network.prefix, program, f"--config={config}"], log=log, environment=environment)
        running.callback(processes.stop, process, timeout_seconds=2)
        processes.wait_for(
            lambda: f"-d {address}/32" in processes.run([*network.prefix, "iptables-save", "--table", "nat"]),
            what="Waiting for kube-proxy",
            process=process,
            log=log,
        )
        yield


def _proxy_config(control_plane: ControlPlane, pod_addresses: str, node: str, address: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(control_plane.user_kubeconfig(PROXY))},
        "mode": "iptables",
        # A pod that reaches another of its own bridge gets the answer from where it asked, whatever the kernel has.
        "iptables": {"masqueradeAll": True},
        "clusterCIDR": pod_addresses,
        "hostnameOverride": node,
        "bindAddress": address,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # Those are the machine's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
