"""What agents, operators and users may write, asked of the API server with real tokens: who, what, and who refuses it.

Every request that writes is a dry run, so that no row depends on another.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diskmigration.api import names
from diskmigration.api.names import API_VERSION, SYSTEM_NAMESPACE
from diskmigration.cluster.client import connect
from testbed.control_plane import ControlPlane, running_control_plane
from tests.integration.api.accounts import user_with
from tests.integration.api.manifests import domain, migration
from tests.integration.api.overlays import write_documented
from tests.integration.api.requests import (
    Answer,
    Request,
    apply,
    ask,
    core,
    create,
    delete,
    events,
    get,
    leases,
    libvirthosts,
    migrations,
    patch,
    replace,
    storage_domains,
)

NAMESPACE = "fence-tests"
NODE_A, NODE_B, NODE_C = "fence-a", "fence-b", "fence-c"
LEADER = "diskmigration-operator"
ENDED, ENDED_WITH_TTL, BEGUN_WITH_TTL = "ended", "ended-with-ttl", "begun-with-ttl"
ACCEPTED = {
    "type": "Accepted",
    "status": "True",
    "reason": "Scheduled",
    "message": "",
    "lastTransitionTime": "2026-11-01T00:00:00Z",
}
REPLICATING = {"phase": "Replicating"}

ALLOWED, BY_ROLES, BY_SCHEMA = Answer.ALLOWED, Answer.BY_ROLES, Answer.BY_SCHEMA
BY_NODE_FENCE, BY_OPERATOR_FENCE = Answer.BY_NODE_FENCE, Answer.BY_OPERATOR_FENCE


def of(node: str) -> str:
    """The migration that is delegated to the node."""
    return f"of-{node}"


def lease(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": SYSTEM_NAMESPACE},
        "spec": {"holderIdentity": "rights"},
    }


def libvirthost(name: str, *, owner: tuple[str, str] | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if owner is not None:
        kind, owned_by = owner
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": kind, "name": owned_by, "uid": "0f6c"}]
    return {"apiVersion": API_VERSION, "kind": "LibvirtHost", "metadata": metadata}


def event(node: str, *, kind: str = "DiskMigration", api_version: str = API_VERSION) -> dict[str, Any]:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "rights.1", "namespace": NAMESPACE},
        "eventTime": "2026-11-01T00:00:00.000000Z",
        "reportingController": "diskmigration.dev/agent",
        "reportingInstance": node,
        "action": "Migrate",
        "reason": "Replicating",
        "type": "Normal",
        "regarding": {"apiVersion": api_version, "kind": kind, "name": of(NODE_A), "namespace": NAMESPACE},
    }


def status_of(node: str, **status: Any) -> Request:
    return patch(migrations(NAMESPACE, of(node), "status"), status=status)


Row = tuple[str, Request, Answer]

STATUSES: list[Row] = [
    ("agent-a", status_of(NODE_A, phase="Replicating"), ALLOWED),
    ("agent-a", status_of(NODE_B, phase="Replicating"), BY_NODE_FENCE),
    ("agent-a", status_of("nobody", phase="Replicating"), BY_NODE_FENCE),
    # A migration is handed to a node by the operator, and cannot be taken.
    ("agent-a", status_of("nobody", nodeName=NODE_A, phase="Replicating"), BY_NODE_FENCE),
    ("agent-a", status_of(NODE_A, nodeName=NODE_B), BY_SCHEMA),
    ("agent-a", status_of(NODE_A, nodeName=None), BY_SCHEMA),
    ("agent-a", status_of(NODE_A, queuePosition=1), BY_NODE_FENCE),
    ("agent-a", status_of(NODE_A, conditions=[{**ACCEPTED, "status": "False"}]), BY_NODE_FENCE),
    ("agent-a", status_of(NODE_A, conditions=[]), BY_NODE_FENCE),
    ("agent-a", status_of(NODE_A, conditions=[ACCEPTED, {**ACCEPTED, "type": "Ready"}]), ALLOWED),
    ("agent-a", status_of(NODE_A, phase="Pending"), BY_NODE_FENCE),
    ("agent-a", status_of(NODE_A, phase="Scheduled", attempts=1), ALLOWED),
    ("agent-a", get(migrations(NAMESPACE, of(NODE_B))), ALLOWED),
    ("agent-a", patch(migrations(NAMESPACE, of(NODE_A)), spec={"cancel": True}), BY_ROLES),
    ("agent-a", create(migrations(NAMESPACE), migration("of-an-agent")), BY_ROLES),
    ("agent-a", delete(migrations(NAMESPACE, of(NODE_A))), BY_ROLES),
    ("agent-b", status_of(NODE_B, phase="Replicating"), ALLOWED),
    ("agent-b", status_of(NODE_A, phase="Replicating"), BY_NODE_FENCE),
    ("unbound-agent", status_of(NODE_A, phase="Replicating"), BY_NODE_FENCE),
    ("operator", status_of(NODE_B, phase="Scheduled"), ALLOWED),
    ("editor", status_of(NODE_A, phase="Succeeded"), BY_ROLES),
    ("administrator", status_of(NODE_A, phase="Succeeded"), BY_ROLES),
]
LIBVIRT_HOSTS: list[Row] = [
    ("agent-a", patch(libvirthosts(NODE_A, "status"), status={"virtualMachineCount": 1}), ALLOWED),
    ("agent-a", patch(libvirthosts(NODE_B, "status"), status={"virtualMachineCount": 1}), BY_NODE_FENCE),
    ("agent-a", patch(libvirthosts(NODE_B), metadata={"labels": {"a": "b"}}), BY_NODE_FENCE),
    ("agent-a", apply(libvirthosts(NODE_A), libvirthost(NODE_A, owner=("Node", NODE_A))), ALLOWED),
    ("agent-a", apply(libvirthosts(NODE_B), libvirthost(NODE_B, owner=("Node", NODE_B))), BY_NODE_FENCE),
    ("agent-a", apply(libvirthosts(NODE_C), libvirthost(NODE_C)), BY_NODE_FENCE),
    ("agent-c", apply(libvirthosts(NODE_C), libvirthost(NODE_C)), ALLOWED),
    ("agent-c", create(libvirthosts(), libvirthost(NODE_C)), ALLOWED),
    ("agent-a", create(libvirthosts(), {**libvirthost(""), "metadata": {"generateName": NODE_A}}), BY_NODE_FENCE),
    ("agent-a", apply(libvirthosts(NODE_A), libvirthost(NODE_A, owner=("Node", NODE_B))), BY_NODE_FENCE),
    ("agent-a", apply(libvirthosts(NODE_A), libvirthost(NODE_A, owner=("Pod", NODE_A))), BY_NODE_FENCE),
    ("agent-a", delete(libvirthosts(NODE_A)), BY_ROLES),
    ("unbound-agent", patch(libvirthosts(NODE_A, "status"), status={"virtualMachineCount": 1}), BY_NODE_FENCE),
    ("operator", patch(libvirthosts(NODE_A, "status"), status={"virtualMachineCount": 1}), BY_ROLES),
    ("editor", get(libvirthosts(NODE_A)), BY_ROLES),
]
LEASES: list[Row] = [
    ("agent-a", apply(leases(NODE_A), lease(NODE_A)), ALLOWED),
    ("agent-a", apply(leases(NODE_B), lease(NODE_B)), BY_NODE_FENCE),
    ("agent-a", apply(leases(NODE_C), lease(NODE_C)), BY_NODE_FENCE),
    ("agent-c", apply(leases(NODE_C), lease(NODE_C)), ALLOWED),
    ("agent-a", create(leases(), lease(NODE_C)), BY_NODE_FENCE),
    ("agent-a", apply(leases(LEADER), lease(LEADER)), BY_NODE_FENCE),
    ("agent-of-a-node-named-as-the-leader", apply(leases(LEADER), lease(LEADER)), BY_NODE_FENCE),
    ("agent-a", delete(leases(NODE_A)), BY_ROLES),
    ("agent-a", get(leases(NODE_A)), BY_ROLES),
    ("agent-a", patch(leases(NODE_A, "kube-node-lease"), spec={"holderIdentity": "rights"}), BY_ROLES),
    ("unbound-agent", apply(leases(NODE_A), lease(NODE_A)), BY_NODE_FENCE),
    ("operator", get(leases()), ALLOWED),
    ("operator", create(leases(), lease(LEADER)), ALLOWED),
    ("operator", replace(leases(LEADER), lease(LEADER)), ALLOWED),
    ("operator", replace(leases(NODE_A), lease(NODE_A)), BY_ROLES),
    ("operator", create(leases(), lease(NODE_C)), BY_OPERATOR_FENCE),
    ("operator", apply(leases(NODE_A), lease(NODE_A)), BY_ROLES),
    ("operator", delete(leases(LEADER)), BY_ROLES),
    ("operator", get(leases(NODE_A)), BY_ROLES),
    ("editor", get(leases()), BY_ROLES),
]
EVENTS: list[Row] = [
    ("agent-a", create(events(NAMESPACE), event(NODE_A)), ALLOWED),
    ("agent-a", create(events(NAMESPACE), event(NODE_B)), BY_NODE_FENCE),
    ("agent-a", create(events(NAMESPACE), event(NODE_A, kind="Pod", api_version="v1")), BY_NODE_FENCE),
    ("agent-a", get(events(NAMESPACE)), BY_ROLES),
    ("operator", create(events(NAMESPACE), event("diskmigration-operator-0")), ALLOWED),
    ("operator", get(events(NAMESPACE)), BY_ROLES),
]
SPECS: list[Row] = [
    ("operator", patch(migrations(NAMESPACE, of(NODE_A)), metadata={"finalizers": [names.FINALIZER]}), ALLOWED),
    ("operator", patch(migrations(NAMESPACE, of(NODE_A)), spec={"cancel": True}), BY_OPERATOR_FENCE),
    ("operator", patch(migrations(NAMESPACE, of(NODE_A)), metadata={"labels": {"a": "b"}}), BY_OPERATOR_FENCE),
    ("operator", patch(migrations(NAMESPACE, of(NODE_A)), metadata={"annotations": {"a": "b"}}), BY_OPERATOR_FENCE),
    ("operator", create(migrations(NAMESPACE), migration("of-the-operator")), BY_ROLES),
    *(
        ("operator", delete(migrations(NAMESPACE, name)), BY_OPERATOR_FENCE)
        for name in (of(NODE_A), of("nobody"), ENDED, BEGUN_WITH_TTL)
    ),
    ("operator", delete(migrations(NAMESPACE, ENDED_WITH_TTL)), ALLOWED),
    ("viewer", get(migrations(NAMESPACE)), ALLOWED),
    ("viewer", create(migrations(NAMESPACE), migration("of-a-user")), BY_ROLES),
    ("viewer", delete(migrations(NAMESPACE, of(NODE_A))), BY_ROLES),
    ("editor", create(migrations(NAMESPACE), migration("of-a-user")), ALLOWED),
    ("editor", patch(migrations(NAMESPACE, of(NODE_A)), spec={"cancel": True}), ALLOWED),
    ("editor", delete(migrations(NAMESPACE, of(NODE_A))), ALLOWED),
    ("editor", get(migrations("default")), BY_ROLES),
    ("editor", create(migrations("default"), migration("of-a-user")), BY_ROLES),
    ("administrator", create(migrations(NAMESPACE), migration("of-a-user")), ALLOWED),
]
STORAGE_DOMAINS: list[Row] = [
    (who, request, BY_ROLES)
    for who in ("viewer", "editor", "administrator")
    for request in (
        get(storage_domains()),
        create(storage_domains(), domain("of-a-user", file={"path": "/etc"})),
        patch(storage_domains("fenced"), spec={"allowedNamespaces": [NAMESPACE]}),
        delete(storage_domains("fenced")),
    )
] + [
    ("agent-a", get(storage_domains()), ALLOWED),
    ("agent-a", create(storage_domains(), domain("of-an-agent", file={"path": "/etc"})), BY_ROLES),
    ("agent-a", patch(storage_domains("fenced", "status"), status={"readyNodes": 1}), BY_ROLES),
    ("operator", patch(storage_domains("fenced", "status"), status={"readyNodes": 1}), ALLOWED),
    ("operator", patch(storage_domains("fenced"), spec={"allowedNamespaces": ["*"]}), BY_ROLES),
]
OTHERS: list[Row] = [
    (who, request, BY_ROLES)
    for who in ("agent-a", "operator")
    for request in (
        get(core("secrets", SYSTEM_NAMESPACE)),
        get(core("secrets", SYSTEM_NAMESPACE, "hidden")),
        get(core("secrets", NAMESPACE)),
        get(core("secrets")),
        get(core("configmaps", SYSTEM_NAMESPACE)),
        get(core("pods", SYSTEM_NAMESPACE)),
        delete(core("pods", SYSTEM_NAMESPACE, "any")),
        create(core("pods", SYSTEM_NAMESPACE, "any", "exec"), {}),
        create(core("pods", SYSTEM_NAMESPACE), {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rights"}}),
        create(core("serviceaccounts", SYSTEM_NAMESPACE, "diskmigration-agent", "token"), {}),
        get(core("nodes")),
        patch(core("nodes", name=NODE_A), metadata={"labels": {"a": "b"}}),
        get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        get("/apis/rbac.authorization.k8s.io/v1/clusterroles"),
        delete("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/diskmigration-node-fence"),
    )
] + [
    ("agent-a", get(core("nodes", name=NODE_A)), ALLOWED),
    ("operator", get(core("nodes", name=NODE_A)), ALLOWED),
]


@dataclass(frozen=True)
class Installation:
    """The project in a namespace, with each account's kubeconfig."""

    control_plane: ControlPlane
    namespace: str
    accounts: dict[str, Path]


@pytest.fixture(scope="module", params=[SYSTEM_NAMESPACE, pytest.param("storage-ops", marks=pytest.mark.nightly)])
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation, and in its cluster what the rows speak of."""
    namespace: str = request.param
    with ExitStack() as running:
        if namespace == SYSTEM_NAMESPACE:
            control_plane: ControlPlane = request.getfixturevalue("control_plane")
        else:
            directory = tmp_path_factory.mktemp("elsewhere")
            control_plane = running.enter_context(running_control_plane(directory / "control-plane"))
            overlays = write_documented(directory)
            control_plane.install_manifests(overlays / "elsewhere", namespace=namespace)
        yield Installation(control_plane, namespace, running.enter_context(prepared(control_plane, namespace)))


@contextmanager
def prepared(control_plane: ControlPlane, system_namespace: str) -> Iterator[dict[str, Path]]:
    """Make what the rows speak of, and return each account's kubeconfig."""
    control_plane.kubectl("create", "namespace", NAMESPACE)
    control_plane.kubectl(
        "create", "secret", "generic", "hidden", f"--namespace={system_namespace}", "--from-literal=key=value"
    )
    admin = connect(control_plane.admin_kubeconfig)
    for node in (NODE_A, NODE_B):
        control_plane.create_node(node, {})
        admin.create(names.LIBVIRT_HOSTS, libvirthost(node))
        body = lease(node)
        body["metadata"]["namespace"] = system_namespace
        admin.create("leases", body, namespace=system_namespace)
    for name, status in (
        (of(NODE_A), {"nodeName": NODE_A, "phase": "Scheduled", "conditions": [ACCEPTED]}),
        (of(NODE_B), {"nodeName": NODE_B, "phase": "Scheduled", "conditions": [ACCEPTED]}),
        (of("nobody"), {"phase": "Pending"}),
        (ENDED, {"nodeName": NODE_A, "phase": "Succeeded", "conditions": [ACCEPTED]}),
        (ENDED_WITH_TTL, {"nodeName": NODE_A, "phase": "Failed", "conditions": [ACCEPTED]}),
        (BEGUN_WITH_TTL, {"nodeName": NODE_A, "phase": "Replicating", "conditions": [ACCEPTED]}),
    ):
        spec = {"ttlSecondsAfterFinished": 60} if name in (ENDED_WITH_TTL, BEGUN_WITH_TTL) else {}
        made = admin.create(names.DISK_MIGRATIONS, migration(name, **spec), namespace=NAMESPACE)
        admin.apply_status(
            names.DISK_MIGRATIONS,
            name,
            status,
            namespace=NAMESPACE,
            uid=made["metadata"]["uid"],
            field_manager=names.OPERATOR_FIELD_MANAGER,
        )
    admin.create(names.STORAGE_DOMAINS, domain("fenced", file={"path": "/srv/fenced"}))

    def agent(node: str | None) -> Path:
        return control_plane.account_kubeconfig(system_namespace, "diskmigration-agent", node=node)

    yield {
        "agent-a": agent(NODE_A),
        "agent-b": agent(NODE_B),
        "agent-c": agent(NODE_C),
        "agent-of-a-node-named-as-the-leader": agent(LEADER),
        "unbound-agent": agent(None),
        "operator": control_plane.account_kubeconfig(system_namespace, "diskmigration-operator"),
        "viewer": user_with(control_plane, NAMESPACE, "view"),
        "editor": user_with(control_plane, NAMESPACE, "edit"),
        "administrator": user_with(control_plane, NAMESPACE, "admin"),
    }
    control_plane.kubectl("delete", "node,libvirthost", NODE_A, NODE_B)
    control_plane.kubectl("delete", "lease", NODE_A, NODE_B, f"--namespace={system_namespace}")
    control_plane.kubectl("delete", "secret", "hidden", f"--namespace={system_namespace}")
    control_plane.kubectl("delete", "storagedomain", "fenced")
    control_plane.kubectl("delete", "diskmigrations", "--all", f"--namespace={NAMESPACE}")


@pytest.mark.parametrize(
    ("who", "request_", "expected"),
    [
        pytest.param(*row, id=f"{row[0]}: {row[1]}: {row[2].value}")
        for row in (*STATUSES, *LIBVIRT_HOSTS, *LEASES, *EVENTS, *SPECS, *STORAGE_DOMAINS, *OTHERS)
    ],
)
def test_who_may_do_what(installation: Installation, who: str, request_: Request, expected: Answer) -> None:
    answer, said = ask(installation.accounts[who], request_.in_namespace(installation.namespace))
    assert answer is expected, said


def test_a_refusal_says_whose_the_object_is(installation: Installation) -> None:
    _, said = ask(installation.accounts["agent-a"], status_of(NODE_B, phase="Replicating"))
    assert f'the agent of node {NODE_A} may not write diskmigrations "{of(NODE_B)}"' in said
    assert f"node {NODE_B}" in said
    _, said = ask(installation.accounts["agent-a"], status_of("nobody", phase="Replicating"))
    assert "no node" in said
    _, said = ask(installation.accounts["unbound-agent"], status_of(NODE_A, phase="Replicating"))
    assert "names no node" in said
    assert "as a pod" in said


def test_an_agents_token_says_on_which_node_it_runs(installation: Installation) -> None:
    kubeconfig = installation.accounts["agent-a"]
    answer = json.loads(installation.control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=kubeconfig))
    user = answer["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{installation.namespace}:diskmigration-agent"
    assert user["extra"]["authentication.kubernetes.io/node-name"] == [NODE_A]
