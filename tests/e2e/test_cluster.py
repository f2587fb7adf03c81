"""The cluster itself: what its nodes and pods see, and that it ends without a trace."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from testbed import processes
from testbed.binaries import control_plane_binaries
from testbed.cluster import STORAGE_ROOT, Cluster, claims
from testbed.images import AGENT_NAME, PAUSE_NAME, Images, build_images
from tests.variants import first_by_day

_REPOSITORY = Path(__file__).parents[2]
_PROBE = "probe"
# Prints whom the apiserver takes the pod for, and which nodes' storage the Service's pods serve.
_PROBE_PROGRAM = """
import errno, json, os, ssl, time, urllib.error, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount/"
review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
request = urllib.request.Request(
    f"https://{os.environ['KUBERNETES_SERVICE_HOST']}/apis/authentication.k8s.io/v1/selfsubjectreviews",
    data=json.dumps(review).encode(),
    headers={"Authorization": "Bearer " + open(account + "token").read(), "Content-Type": "application/json"},
)
trusted = ssl.create_default_context(cafile=account + "ca.crt")
user = json.load(urllib.request.urlopen(request, context=trusted, timeout=10))["status"]["userInfo"]
service = f"http://{os.environ['PROBE_SERVICE_HOST']}/node"
served, deadline = set(), time.monotonic() + 20
# Until kube-proxy knows of both; as long as it knows of none, it has the Service refuse.
while len(served) < 2 and time.monotonic() < deadline:
    try:
        served.add(urllib.request.urlopen(service, timeout=10).read().decode())
    except urllib.error.URLError as error:
        # No endpoint known yet, or a pod of the other node that is known and not reached yet.
        if getattr(error.reason, "errno", None) not in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
            raise
        time.sleep(0.1)
print(json.dumps({"user": user["username"], "extra": user["extra"], "served": sorted(served)}))
"""


@pytest.fixture(scope="module")
def probes(cluster: Cluster) -> Iterator[dict[str, str]]:
    """The name of the pod on each node, which serves that node's storage; a Service has them all."""
    for name, node in cluster.nodes.items():
        (node.storage / "node").write_text(name)
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(_probe_objects()))
    cluster.kubectl("rollout", "status", f"daemonset/{_PROBE}", "--timeout=60s")
    pods = json.loads(cluster.kubectl("get", "pods", f"--selector=app={_PROBE}", "--output=json"))["items"]
    yield {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in pods}
    cluster.kubectl("delete", "--filename=-", stdin=json.dumps(_probe_objects()))
    for node in cluster.nodes.values():
        (node.storage / "node").unlink()


def test_every_node_has_a_pod_of_its_own(cluster: Cluster, probes: dict[str, str]) -> None:
    assert set(probes) == set(cluster.nodes) == {"node-a", "node-b"}


@pytest.mark.parametrize("name", ["node-a", "node-b"])
def test_a_pod_reaches_the_api_and_services_as_itself(cluster: Cluster, probes: dict[str, str], name: str) -> None:
    said = json.loads(cluster.kubectl("exec", "--stdin", probes[name], "--", "python3", "-", stdin=_PROBE_PROGRAM))
    assert said["user"] == "system:serviceaccount:default:default"
    assert said["extra"]["authentication.kubernetes.io/node-name"] == [name]
    # The pods of both nodes answer, each with the file of its own.
    assert said["served"] == ["node-a", "node-b"]
    assert "GET /node" in cluster.kubectl("logs", probes[name])


@pytest.mark.parametrize("name", ["node-a", "node-b"])
def test_a_pod_sees_the_libvirt_of_its_node(cluster: Cluster, probes: dict[str, str], name: str) -> None:
    node = cluster.nodes[name]
    inode = cluster.kubectl("exec", probes[name], "--", "stat", "--format=%i", "/run/libvirt/libvirt-sock")
    assert int(inode) == (node.libvirt.socket_directory / "libvirt-sock").stat().st_ino
    # A restarted daemon makes a new socket.
    node.libvirt.restart_daemon()
    again = cluster.kubectl("exec", probes[name], "--", "stat", "--format=%i", "/run/libvirt/libvirt-sock")
    assert int(again) == (node.libvirt.socket_directory / "libvirt-sock").stat().st_ino


@pytest.mark.parametrize("ending", first_by_day([signal.SIGKILL, signal.SIGTERM]))
def test_nothing_is_left_at_its_end(scratch: Path, ending: signal.Signals) -> None:
    directory = scratch / "cluster"
    with _cluster_in_the_background(directory) as supervisor:
        _start_pod(directory)
        volume = directory / "node-a" / "lib" / STORAGE_ROOT.name / "volume"
        volume.touch()
        os.truncate(volume, 2**20)
        processes.run(["losetup", "--find", volume])
        # What the last assertion looks for is there while it runs.
        found = " ".join(claims.remains(directory))
        for part in ("kube-apiserver", "libvirtd", "kubelet", "pause", "control group", "loop device", "interface"):
            assert part in found
        supervisor.send_signal(ending)
        assert supervisor.wait(60) == (0 if ending == signal.SIGTERM else -ending)
    if ending == signal.SIGKILL:
        processes.run([sys.executable, "-m", "testbed.cluster", f"--directory={directory}", "down"])
    assert claims.remains(directory) == []
    assert not directory.exists()


def test_with_nothing_to_end_nothing_is_said(scratch: Path) -> None:
    command = [sys.executable, "-m", "testbed.cluster", f"--directory={scratch / 'cluster'}", "down"]
    assert processes.run(command) == ""


@contextmanager
def _cluster_in_the_background(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A cluster of one node, whose images are all the smallest there is, that is ready."""
    pause = build_images().pause
    images = json.dumps(asdict(Images(operator=pause, agent=pause, pause=pause)), default=str)
    command = [sys.executable, "-m", "testbed.cluster", f"--directory={directory}", "run", f"--images={images}"]
    log = directory.parent / "cluster.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as supervisor:
        try:
            processes.wait_for(
                (directory / "cluster.json").exists,
                what="Starting a cluster",
                process=supervisor,
                log=log,
                timeout_seconds=120,
            )
            yield supervisor
        finally:
            supervisor.kill()


def _start_pod(directory: Path) -> None:
    container = {"name": "waits", "image": PAUSE_NAME, "imagePullPolicy": "Never"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "waits"}, "spec": {"containers": [container]}}
    kubeconfig = directory / "control-plane" / "admin.kubeconfig"
    kubectl: list[str | Path] = [control_plane_binaries().kubectl, f"--kubeconfig={kubeconfig}"]
    processes.run([*kubectl, "create", "--filename=-"], stdin=json.dumps(pod))
    processes.run([*kubectl, "wait", "--for=condition=Ready", "pod/waits", "--timeout=60s"])


def _probe_objects() -> dict[str, object]:
    labels = {"app": _PROBE}
    container = {
        "name": "server",
        "image": AGENT_NAME,
        "imagePullPolicy": "Never",
        "command": ["python3", "-u", "-m", "http.server", "8080", "--directory", str(STORAGE_ROOT)],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [
            {"name": "libvirt", "mountPath": "/run/libvirt"},
            {"name": "storage", "mountPath": str(STORAGE_ROOT), "mountPropagation": "HostToContainer"},
        ],
        "readinessProbe": {"httpGet": {"path": "/node", "port": 8080}, "periodSeconds": 1},
    }
    volumes = [
        {"name": "libvirt", "hostPath": {"path": "/run/libvirt", "type": "Directory"}},
        {"name": "storage", "hostPath": {"path": str(STORAGE_ROOT), "type": "Directory"}},
    ]
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": _PROBE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1},
            },
        },
    }
    # Made first: a pod is told of the Services that there are when it starts.
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _PROBE},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [service, daemons]}
