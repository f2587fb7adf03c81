"""An API server that asks for rest with Retry-After gets it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diskmigration.api import names
from diskmigration.cluster.client import Cluster, connect
from diskmigration.cluster.errors import ClusterError
from testbed.control_plane import ControlPlane, running_control_plane
from tests.waiting import wait_until

ACCOUNT = "refused"
NAMESPACE = "default"
LEVEL = {
    "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
    "kind": "PriorityLevelConfiguration",
    "metadata": {"name": ACCOUNT},
    # One request at a time has a place, and none may wait: others are answered with 429 and Retry-After: 1.
    "spec": {
        "type": "Limited",
        "limited": {
            "nominalConcurrencyShares": 0,
            "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        },
    },
}
FLOW: dict[str, Any] = {
    "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
    "kind": "FlowSchema",
    "metadata": {"name": ACCOUNT},
    "spec": {
        "priorityLevelConfiguration": {"name": ACCOUNT},
        "matchingPrecedence": 10,
        "rules": [
            {
                "subjects": [
                    {"kind": "ServiceAccount", "serviceAccount": {"name": ACCOUNT, "namespace": NAMESPACE}},
                ],
                "resourceRules": [
                    {
                        "verbs": ["*"],
                        "apiGroups": ["*"],
                        "resources": [names.DISK_MIGRATIONS],
                        "namespaces": ["*"],
                        "clusterScope": True,
                    }
                ],
            }
        ],
    },
}


@pytest.fixture(scope="module")
def own_control_plane(session_directory: Path) -> Iterator[ControlPlane]:
    """A control plane that may refuse requests."""
    with running_control_plane(session_directory / "resting-control-plane") as control_plane:
        control_plane.install_manifests()
        yield control_plane


@pytest.fixture
def account(own_control_plane: ControlPlane) -> Iterator[Cluster]:
    """An account that may make one request for migrations at a time."""
    control_plane = own_control_plane
    control_plane.kubectl("create", "serviceaccount", ACCOUNT, f"--namespace={NAMESPACE}")
    role = "--clusterrole=diskmigration-agent"
    control_plane.kubectl("create", "clusterrolebinding", ACCOUNT, role, f"--serviceaccount={NAMESPACE}:{ACCOUNT}")
    for document in (LEVEL, FLOW):
        control_plane.kubectl("apply", "--filename=-", stdin=json.dumps(document))
    yield connect(control_plane.account_kubeconfig(NAMESPACE, ACCOUNT))
    control_plane.kubectl("delete", "flowschema", ACCOUNT, "--ignore-not-found")


def outcome(cluster: Cluster, plural: str) -> str:
    try:
        cluster.list(plural)
    except ClusterError as error:
        return str(error)
    return ""


def crowd(cluster: Cluster) -> set[str]:
    """Return what comes of several requests at one time, of which the API server takes one."""
    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(lambda _: outcome(cluster, names.DISK_MIGRATIONS), range(16)))


def test_a_kind_is_left_alone_for_as_long_as_it_is_asked(account: Cluster) -> None:
    seen: set[str] = set()

    def has_refused() -> bool:
        seen.update(crowd(account))
        return any("HTTP 429" in answer for answer in seen) and any("not sent" in answer for answer in seen)

    wait_until(has_refused, "the API server refuses, and is left alone")
    assert outcome(account, names.STORAGE_DOMAINS) == ""
    wait_until(lambda: outcome(account, names.DISK_MIGRATIONS) == "", "it is asked again after the pause")
