"""What RBAC grants to each account, asked of the API server with the accounts' real tokens. test_fence.py goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from diskmigration.api.names import SYSTEM_NAMESPACE
from testbed.control_plane import ControlPlane
from tests.integration.api.accounts import folded_roles, user_with
from tests.integration.api.conftest import NAMESPACE

NODE = "node-rights"
GROUP = "diskmigration.dev"
LEADER = "diskmigration-operator"
DM, SD, LVH = (f"{plural}.{GROUP}" for plural in ("diskmigrations", "storagedomains", "libvirthosts"))
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


@pytest.fixture(scope="module")
def viewer(control_plane: ControlPlane, namespace: str) -> Path:
    return user_with(control_plane, namespace, "view")


@pytest.fixture(scope="module")
def editor(control_plane: ControlPlane, namespace: str) -> Path:
    return user_with(control_plane, namespace, "edit")


@pytest.fixture(scope="module")
def reader(control_plane: ControlPlane, namespace: str) -> Path:
    """Who may see the storage domains."""
    account = ("reader-of-storage", f"--namespace={namespace}")
    control_plane.kubectl("create", "serviceaccount", *account)
    role = "--clusterrole=diskmigration-catalog-view"
    control_plane.kubectl(
        "create", "clusterrolebinding", account[0], role, f"--serviceaccount={namespace}:{account[0]}"
    )
    return control_plane.account_kubeconfig(namespace, account[0])


@pytest.fixture(scope="module")
def administrator(control_plane: ControlPlane, namespace: str) -> Path:
    """Of the namespace, not of the cluster."""
    return user_with(control_plane, namespace, "admin")


def allowed(account: Path, resource: str, namespace: str) -> set[str]:
    """The verbs that a SelfSubjectAccessReview grants; a resource is written `plural.group/subresource:name`."""
    whole, _, name = resource.partition(":")
    whole, _, subresource = whole.partition("/")
    plural, _, group = whole.partition(".")
    granted = set()
    with config.new_client_from_config(str(account)) as api_client:
        reviews = client.AuthorizationV1Api(api_client)
        for verb in VERBS:
            attributes = client.V1ResourceAttributes(
                verb=verb, group=group, resource=plural, subresource=subresource, name=name, namespace=namespace
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
    (SD, ELSEWHERE): {"list", "watch"},
    (f"{SD}/status", ELSEWHERE): set(),
    (LVH, ELSEWHERE): {"get", "list", "create", "patch"},
    (f"{LVH}/status", ELSEWHERE): {"patch"},
    ("leases.coordination.k8s.io", SYSTEM_NAMESPACE): {"list", "create", "patch"},
    ("leases.coordination.k8s.io", ELSEWHERE): set(),
    ("nodes", ELSEWHERE): {"get"},
    ("events.events.k8s.io", ELSEWHERE): {"create"},
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
    (LVH, ELSEWHERE): READ,
    (f"{LVH}/status", ELSEWHERE): set(),
    ("leases.coordination.k8s.io", SYSTEM_NAMESPACE): {"list", "create"},
    (f"leases.coordination.k8s.io:{LEADER}", SYSTEM_NAMESPACE): {"list", "create", "get", "update"},
    ("leases.coordination.k8s.io", ELSEWHERE): set(),
    ("nodes", ELSEWHERE): {"get"},
    ("events.events.k8s.io", ELSEWHERE): {"create"},
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
    (LVH, NAMESPACE): set(),
    ("leases.coordination.k8s.io", SYSTEM_NAMESPACE): set(),
}
VIEWER = {(DM, NAMESPACE): READ, **NOT_A_USERS}
READER: dict[tuple[str, str], set[str]] = {(SD, ELSEWHERE): READ, (LVH, ELSEWHERE): set(), (DM, NAMESPACE): set()}
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
            "reader": READER,
        }.items()
        for what, expected in table.items()
    ],
)
def test_an_account_has_these_rights_and_no_other(
    request: pytest.FixtureRequest, account: str, what: tuple[str, str], expected: set[str]
) -> None:
    assert allowed(request.getfixturevalue(account), *what) == expected


@pytest.mark.parametrize(
    ("role", "folded"),
    [
        ("view", ["diskmigration-view"]),
        ("edit", ["diskmigration-edit", "diskmigration-view"]),
        ("admin", ["diskmigration-edit", "diskmigration-view"]),
    ],
)
def test_the_clusters_own_roles_take_these_in(control_plane: ControlPlane, role: str, folded: list[str]) -> None:
    assert folded_roles(control_plane, role) == folded
