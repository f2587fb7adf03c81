"""Leases wait behind no other request: the API server tells of each by which level of priority it was served."""

import json
from pathlib import Path

from diskmigration.api.names import SYSTEM_NAMESPACE
from testbed.control_plane import ControlPlane
from tests.integration.api.requests import Request, apply, get, leases, migrations, send

NODE = "node-priority"
LEVEL = "diskmigration-leases"


def level_of(control_plane: ControlPlane, account: Path, request: Request) -> tuple[str, str]:
    """The FlowSchema and the priority level by which the server took the request, by their names."""
    response = send(account, request)
    assert response.status in (200, 201), response.said
    headers = {name.lower(): value for name, value in response.headers.items()}
    schema = named(control_plane, "flowschemas", headers["x-kubernetes-pf-flowschema-uid"])
    return schema, named(control_plane, "prioritylevelconfigurations", headers["x-kubernetes-pf-prioritylevel-uid"])


def named(control_plane: ControlPlane, kind: str, uid: str) -> str:
    objects = json.loads(control_plane.kubectl("get", kind, "--output=json"))["items"]
    [name] = [each["metadata"]["name"] for each in objects if each["metadata"]["uid"] == uid]
    return str(name)


def test_an_agents_lease_has_seats_of_its_own(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create_node(NODE, {})
    agent = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NODE, "namespace": SYSTEM_NAMESPACE},
        "spec": {"holderIdentity": "test"},
    }
    assert level_of(control_plane, agent, apply(leases(NODE), lease)) == (LEVEL, LEVEL)
    assert level_of(control_plane, agent, get(migrations(namespace)))[0] != LEVEL
    control_plane.kubectl("delete", "node", NODE)


def test_the_operators_leases_have_them_too(control_plane: ControlPlane, namespace: str) -> None:
    operator = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-operator")
    assert level_of(control_plane, operator, get(leases())) == (LEVEL, LEVEL)
    assert level_of(control_plane, operator, get(migrations(namespace)))[0] != LEVEL
