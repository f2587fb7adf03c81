"""The cluster's own roles with what is folded into them, and the admission policies as the controllers checked them."""

import json

import pytest

from testbed.cluster import Cluster
from testbed.processes import TestbedError
from tests.e2e.user import FILES, NAMESPACE

MIGRATION = {
    "apiVersion": "diskmigration.dev/v1alpha1",
    "kind": "DiskMigration",
    "metadata": {"name": "of-a-user", "namespace": NAMESPACE},
    "spec": {"virtualMachine": {"name": "any"}, "disk": "vda", "destination": {"storageDomainName": FILES}},
}


@pytest.fixture(scope="module")
def users(installed: Cluster) -> dict[str, str]:
    """A user of the one namespace with each of the cluster's own roles."""
    for role in ("view", "edit", "admin"):
        installed.kubectl(
            "create", "rolebinding", f"{role}s", f"--clusterrole={role}", f"--user={role}or", f"--namespace={NAMESPACE}"
        )
    return {role: f"{role}or" for role in ("view", "edit", "admin")}


def can(cluster: Cluster, user: str, verb: str, what: str, namespace: str = NAMESPACE, subresource: str = "") -> bool:
    """What the API server answers to a SubjectAccessReview."""
    attributes = {
        "group": "diskmigration.dev",
        "resource": what,
        "subresource": subresource,
        "verb": verb,
        "namespace": namespace,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    printed = cluster.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(review))
    return bool(json.loads(printed)["status"]["allowed"])


@pytest.mark.parametrize(("role", "may_write"), [("view", False), ("edit", True), ("admin", True)])
def test_the_clusters_own_roles_have_our_kinds(
    installed: Cluster, users: dict[str, str], role: str, may_write: bool
) -> None:
    user = users[role]
    for verb in ("get", "list", "watch"):
        assert can(installed, user, verb, "diskmigrations")
    for verb in ("create", "update", "patch", "delete", "deletecollection"):
        assert can(installed, user, verb, "diskmigrations") is may_write
    for verb in ("update", "patch"):
        assert not can(installed, user, verb, "diskmigrations", subresource="status")
    for kind in ("storagedomains", "libvirthosts"):
        for verb in ("get", "create", "patch", "delete"):
            assert not can(installed, user, verb, kind)
    assert not can(installed, user, "get", "diskmigrations", namespace="default")


def test_an_editor_asks_for_a_move_and_for_no_storage(installed: Cluster, users: dict[str, str]) -> None:
    apply = ("apply", "--dry-run=server", "--filename=-", f"--as={users['edit']}")
    installed.kubectl(*apply, stdin=json.dumps(MIGRATION))
    # kubectl looks at an object before it patches it.
    with pytest.raises(TestbedError, match='cannot get resource "storagedomains"'):
        installed.kubectl(
            "patch",
            "storagedomain",
            FILES,
            "--type=merge",
            '--patch={"spec":{"allowedNamespaces":["*"]}}',
            f"--as={users['edit']}",
        )


def test_no_policy_has_an_expression_of_the_wrong_type(installed: Cluster) -> None:
    for policy in ("diskmigration-node-fence", "diskmigration-operator-fence"):
        # The controller-manager writes it once it has checked the whole policy.
        generation = installed.kubectl(
            "get", "validatingadmissionpolicy", policy, "--output=jsonpath={.metadata.generation}"
        )
        observed = f"--for=jsonpath={{.status.observedGeneration}}={generation}"
        installed.kubectl("wait", observed, "--timeout=60s", f"validatingadmissionpolicy/{policy}")
        found = json.loads(installed.kubectl("get", "validatingadmissionpolicy", policy, "--output=json"))
        assert found["status"].get("typeChecking", {}).get("expressionWarnings", []) == []
