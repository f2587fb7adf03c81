"""deploy/overlays/dev on a cluster."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.cluster import Cluster

SYSTEM_NAMESPACE = "diskmigration-system"
OVERLAY = Path(__file__).parents[2] / "deploy" / "overlays" / "dev"
OPERATOR = "deployment/diskmigration-operator"
AGENT = "daemonset/diskmigration-agent"
LEASE = "diskmigration-operator"


def apply(cluster: Cluster) -> list[str]:
    """`kubectl apply -k`, as the README has it; what it said of each object."""
    return cluster.kubectl("apply", f"--kustomize={OVERLAY}").splitlines()


def delete(cluster: Cluster) -> None:
    """`kubectl delete -k`, which waits until all is gone."""
    cluster.kubectl("delete", f"--kustomize={OVERLAY}", "--timeout=90s")


def wait_until_up(cluster: Cluster) -> None:
    """Every pod is ready, and every node has told what it has."""
    for program in (OPERATOR, AGENT):
        rollout(cluster, "status", program, "--timeout=120s")
    for node in cluster.nodes:
        cluster.kubectl("wait", "--for=create", f"libvirthost/{node}", "--timeout=60s")
        cluster.kubectl("wait", "--for=condition=Ready", f"libvirthost/{node}", "--timeout=60s")


def rollout(cluster: Cluster, *arguments: str) -> str:
    """`kubectl rollout` in the system's namespace."""
    return cluster.kubectl("rollout", *arguments, f"--namespace={SYSTEM_NAMESPACE}")


def pods(cluster: Cluster, component: str) -> list[dict[str, Any]]:
    """The pods of the operator or of the agent, as they are now."""
    selector = f"app.kubernetes.io/component={component}"
    found = cluster.kubectl("get", "pods", f"--namespace={SYSTEM_NAMESPACE}", f"--selector={selector}", "--output=json")
    items: list[dict[str, Any]] = json.loads(found)["items"]
    return items


def leader(cluster: Cluster) -> str:
    """Who holds the operators' Lease: a pod's name, with more behind it or not."""
    path = "--output=jsonpath={.spec.holderIdentity}"
    return cluster.kubectl("get", "lease", LEASE, f"--namespace={SYSTEM_NAMESPACE}", path)


def kill(pod: dict[str, Any]) -> None:
    """SIGKILL to the program of a pod, which gives nothing back; the kubelet starts another in the same pod."""
    uid = pod["metadata"]["uid"]
    for process in Path("/proc").glob("[0-9]*"):
        # One that ends while it is looked at cannot be read.
        with suppress(OSError):
            is_program = b"diskmigration-" in (process / "cmdline").read_bytes()
            if is_program and f"pod{uid}" in (process / "cgroup").read_text():
                os.kill(int(process.name), signal.SIGKILL)
                return
    raise AssertionError(f"{pod['metadata']['name']} has no program")
