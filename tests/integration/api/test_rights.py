"""What each account may do, asked of the API server with the accounts' real tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from diskmigration.api import names
from diskmigration.api.names import SYSTEM_NAMESPACE
from diskmigration.cluster.client import connect
from diskmigration.cluster.errors import RefusedError
from testbed.control_plane import ControlPlane
from tests.integration.api.conftest import NAMESPACE, Apply
from tests.integration.api.manifests import API_VERSION, domain, migration

NODE = "node-rights"
GROUP = "diskmigration.dev"
DM, SD, HV = (f"{plural}.{GROUP}" for plural in ("diskmigrations", "storagedomains", "hypervisors"))
ELSEWHERE = "default"
READ = {"get", "list", "watch"}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


@pytest.fixture(scope="module")
def agent(control_plane: ControlPlane) -> Iterator[Path]:
    control_plane.create_node(NODE, {})
    yield control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
    control_plane.kubectl("delete", "node", NODE)


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane) -> Path:
    return control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-operator")


def user_with(control_plane: ControlPlane, namespace: str, role: str) -> Path:
    """A user of that one namespace who has what is folded into the cluster's own role.

    The folding is the controller-manager's, which does not run here: the roles with its label are bound one by one.
    """
    name = f"user-who-may-{role}"
    control_plane.kubectl("create", "serviceaccount", name, f"--namespace={namespace}")
    label = f"--selector=rbac.authorization.k8s.io/aggregate-to-{role}=true"
    roles = control_plane.kubectl("get", "clusterroles", label, "--output=name").split()
    for folded in (one.partition("/")[2] for one in roles):
        if folded.startswith("diskmigration-"):
            control_plane.kubectl(
                "create",
                "rolebinding",
                f"{name}-{folded}",
                f"--clusterrole={folded}",
                f"--serviceaccount={namespace}:{name}",
                f"--namespace={namespace}",
            )
    return control_plane.account_kubeconfig(namespace, name)


@pytest.fixture(scope="module")
def viewer(control_plane: ControlPlane, namespace: str) -> Path:
    return user_with(control_plane, namespace, "view")


@pytest.fixture(scope="module")
def editor(control_plane: ControlPlane, namespace: str) -> Path:
    return user_with(control_plane, namespace, "edit")


@pytest.fixture(scope="module")
def administrator(control_plane: ControlPlane, namespace: str) -> Path:
    """Of the namespace, not of the cluster."""
    return user_with(control_plane, namespace, "admin")


def allowed(account: Path, resource: str, namespace: str) -> set[str]:
    """The verbs that a SelfSubjectAccessReview grants; a resource is written `plural.group/subresource`."""
    whole, _, subresource = resource.partition("/")
    plural, _, group = whole.partition(".")
    granted = set()
    with config.new_client_from_config(str(account)) as api_client:
        reviews = client.AuthorizationV1Api(api_client)
        for verb in VERBS:
            attributes = client.V1ResourceAttributes(
                verb=verb, group=group, resource=plural, subresource=subresource, namespace=namespace
            )
            asked = client.V1SelfSubjectAccessReview(
                spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
            )
            answer = reviews.create_self_subject_access_review(asked).status
            assert answer is not None
            if answer.allowed:
                granted.add(verb)
    return granted


AGENT: dict[tuple[str, str], set[str]] = {
    (DM, ELSEWHERE): READ,
    (f"{DM}/status", ELSEWHERE): {"patch"},
    (SD, ELSEWHERE): READ,
    (f"{SD}/status", ELSEWHERE): set(),
    (HV, ELSEWHERE): {"get", "create", "patch"},
    (f"{HV}/status", ELSEWHERE): {"patch"},
    ("leases.coordination.k8s.io", SYSTEM_NAMESPACE): {"get", "create", "patch"},
    ("leases.coordination.k8s.io", ELSEWHERE): set(),
    ("nodes", ELSEWHERE): {"get"},
    ("events.events.k8s.io", ELSEWHERE): {"create", "patch"},
    ("secrets", ELSEWHERE): set(),
    ("secrets", SYSTEM_NAMESPACE): set(),
    ("configmaps", SYSTEM_NAMESPACE): set(),
    ("pods", SYSTEM_NAMESPACE): set(),
    ("pods/exec", SYSTEM_NAMESPACE): set(),
    ("serviceaccounts/token", SYSTEM_NAMESPACE): set(),
    ("customresourcedefinitions.apiextensions.k8s.io", ELSEWHERE): set(),
    ("clusterroles.rbac.authorization.k8s.io", ELSEWHERE): set(),
}
OPERATOR: dict[tuple[str, str], set[str]] = {
    (DM, ELSEWHERE): READ | {"patch", "delete"},
    (f"{DM}/status", ELSEWHERE): {"patch"},
    (SD, ELSEWHERE): READ,
    (f"{SD}/status", ELSEWHERE): {"patch"},
    (HV, ELSEWHERE): READ,
    (f"{HV}/status", ELSEWHERE): set(),
    ("leases.coordination.k8s.io", SYSTEM_NAMESPACE): READ | {"create", "update", "patch"},
    ("leases.coordination.k8s.io", ELSEWHERE): set(),
    ("nodes", ELSEWHERE): READ,
    ("events.events.k8s.io", ELSEWHERE): {"create", "patch"},
    ("secrets", ELSEWHERE): set(),
    ("secrets", SYSTEM_NAMESPACE): set(),
    ("pods", SYSTEM_NAMESPACE): set(),
    ("pods/exec", SYSTEM_NAMESPACE): set(),
    ("serviceaccounts/token", SYSTEM_NAMESPACE): set(),
    ("customresourcedefinitions.apiextensions.k8s.io", ELSEWHERE): set(),
    ("clusterroles.rbac.authorization.k8s.io", ELSEWHERE): set(),
}
NOT_A_USERS: dict[tuple[str, str], set[str]] = {
    (f"{DM}/status", NAMESPACE): set(),
    (DM, ELSEWHERE): set(),
    (SD, NAMESPACE): set(),
    (HV, NAMESPACE): set(),
    ("leases.coordination.k8s.io", SYSTEM_NAMESPACE): set(),
}
VIEWER = {(DM, NAMESPACE): READ, **NOT_A_USERS}
EDITOR = {(DM, NAMESPACE): set(VERBS), **NOT_A_USERS}


@pytest.mark.parametrize(
    ("account", "what", "expected"),
    [
        pytest.param(account, what, expected, id=f"{account}: {what[0]} in {what[1]}")
        for account, table in {
            "agent": AGENT,
            "operator": OPERATOR,
            "viewer": VIEWER,
            "editor": EDITOR,
            "administrator": EDITOR,
        }.items()
        for what, expected in table.items()
    ],
)
def test_an_account_has_these_rights_and_no_other(
    request: pytest.FixtureRequest, account: str, what: tuple[str, str], expected: set[str]
) -> None:
    assert allowed(request.getfixturevalue(account), *what) == expected


def write_status(account: Path, plural: str, made: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """As the programs do: server-side apply of the status alone."""
    metadata = made["metadata"]
    namespace = metadata.get("namespace", "")
    body = connect(account).apply_status(
        plural, metadata["name"], status, namespace=namespace, uid=metadata["uid"], field_manager="rights"
    )
    written: dict[str, Any] = body["status"]
    return written


def test_an_agent_writes_a_status_and_no_spec(apply: Apply, namespace: str, agent: Path) -> None:
    made = apply(migration("rights"))
    assert write_status(agent, names.DISK_MIGRATIONS, made, {"phase": "Snapshotting"})["phase"] == "Snapshotting"
    cluster = connect(agent)
    with pytest.raises(RefusedError, match="cannot patch resource"):
        cluster.apply(
            names.DISK_MIGRATIONS, "rights", {"spec": {"cancel": True}}, namespace=namespace, field_manager="rights"
        )
    with pytest.raises(RefusedError, match="cannot delete resource"):
        cluster.delete(names.DISK_MIGRATIONS, "rights", namespace, uid=made["metadata"]["uid"])
    with pytest.raises(RefusedError, match="cannot create resource"):
        cluster.create(names.DISK_MIGRATIONS, migration("of-the-agent"), namespace=namespace)


def test_an_agent_makes_its_hypervisor_and_no_storage_domain(
    apply: Apply, control_plane: ControlPlane, agent: Path
) -> None:
    cluster = connect(agent)
    hypervisor = cluster.apply(names.HYPERVISORS, NODE, {}, field_manager="rights")
    assert write_status(agent, names.HYPERVISORS, hypervisor, {"virtualMachineCount": 1})["virtualMachineCount"] == 1
    control_plane.kubectl("delete", "hypervisor", NODE)
    made = apply(domain("rights", file={"path": "/srv/vmdisks"}))
    with pytest.raises(RefusedError, match="cannot create resource"):
        cluster.create(names.STORAGE_DOMAINS, domain("of-the-agent", file={"path": "/etc"}))
    with pytest.raises(RefusedError, match="cannot patch resource"):
        cluster.apply(names.STORAGE_DOMAINS, "rights", {"spec": made["spec"]}, field_manager="rights")
    with pytest.raises(RefusedError, match="cannot patch resource"):
        write_status(agent, names.STORAGE_DOMAINS, made, {"readyNodes": 1})


def test_the_operator_writes_of_a_storage_domain_its_status_alone(apply: Apply, operator: Path) -> None:
    made = apply(domain("rights", file={"path": "/srv/vmdisks"}))
    assert write_status(operator, names.STORAGE_DOMAINS, made, {"readyNodes": 1})["readyNodes"] == 1
    with pytest.raises(RefusedError, match="cannot patch resource"):
        connect(operator).apply(
            names.STORAGE_DOMAINS, "rights", {"spec": {"allowedNamespaces": ["*"]}}, field_manager="rights"
        )


def test_the_operator_writes_no_hypervisor(apply: Apply, operator: Path) -> None:
    made = apply({"apiVersion": API_VERSION, "kind": "Hypervisor", "metadata": {"name": "node-of-another"}})
    with pytest.raises(RefusedError, match="cannot patch resource"):
        write_status(operator, names.HYPERVISORS, made, {"virtualMachineCount": 1})


def test_a_user_makes_migrations_and_writes_no_status(apply: Apply, namespace: str, editor: Path) -> None:
    cluster = connect(editor)
    made = cluster.create(names.DISK_MIGRATIONS, migration("of-a-user"), namespace=namespace)
    with pytest.raises(RefusedError, match="cannot patch resource"):
        write_status(editor, names.DISK_MIGRATIONS, made, {"nodeName": "node-of-the-user"})
    cluster.delete(names.DISK_MIGRATIONS, "of-a-user", namespace, uid=made["metadata"]["uid"])
    with pytest.raises(RefusedError, match="cannot create resource"):
        cluster.create(names.STORAGE_DOMAINS, domain("of-a-user", file={"path": "/etc"}))


def test_an_agents_token_says_on_which_node_it_runs(control_plane: ControlPlane, agent: Path) -> None:
    answer = json.loads(control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=agent))
    user = answer["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{SYSTEM_NAMESPACE}:diskmigration-agent"
    assert user["extra"]["authentication.kubernetes.io/node-name"] == [NODE]
