"""Leases wait behind no other request: the API server tells of each by which level of priority it was served."""

import json
from pathlib import Path

from diskmigration.api.names import SYSTEM_NAMESPACE
from testbed.control_plane import ControlPlane
from tests.integration.api.requests import (
    Request,
    apply,
    create,
    events,
    get,
    leases,
    libvirthosts,
    migrations,
    patch,
    send,
)

NODE = "node-priority"
LEVEL = "diskmigration-leases"
AGENTS, EVENTS = "diskmigration-agents", "diskmigration-events"


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


def test_what_agents_tell_and_events_wait_apart_from_scheduling(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.create_node(NODE, {})
    agent = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
    operator = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-operator")
    host = {"apiVersion": "diskmigration.dev/v1alpha1", "kind": "LibvirtHost", "metadata": {"name": NODE}}
    status = {"virtualMachineCount": 1}
    control_plane.kubectl("apply", "--filename=-", stdin=json.dumps(host))
    assert level_of(control_plane, agent, apply(libvirthosts(NODE), host)) == (AGENTS, AGENTS)
    assert level_of(control_plane, agent, patch(libvirthosts(NODE, "status"), status=status)) == (AGENTS, AGENTS)
    for account in (agent, operator):
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "test-", "namespace": namespace},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "diskmigration.dev/agent" if account is agent else "diskmigration.dev/operator",
            "reportingInstance": NODE,
            "action": "Test",
            "reason": "Test",
            "type": "Normal",
            "regarding": {"apiVersion": "diskmigration.dev/v1alpha1", "kind": "DiskMigration", "namespace": namespace},
        }
        assert level_of(control_plane, account, create(events(namespace), event)) == (EVENTS, EVENTS)
    control_plane.kubectl("delete", "node,libvirthost", NODE)
