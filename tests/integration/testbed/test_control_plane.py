"""The control plane answers, keeps its objects, and refuses what RBAC does not allow."""

import json

import pytest

from testbed.control_plane import ControlPlane
from testbed.processes import TestbedError

AGENT = ("diskmigration-system", "diskmigration-agent")
OPERATOR = ("diskmigration-system", "diskmigration-operator")


def test_the_kinds_are_served(control_plane: ControlPlane) -> None:
    served = control_plane.kubectl("api-resources", "--output=name")
    for kind in ("diskmigrations", "storagedomains", "libvirthosts"):
        assert any(line.startswith(f"{kind}.") for line in served.split()), served


@pytest.mark.parametrize("account", [AGENT, OPERATOR])
def test_an_account_is_itself_and_no_administrator(control_plane: ControlPlane, account: tuple[str, str]) -> None:
    kubeconfig = control_plane.account_kubeconfig(*account)
    answer = json.loads(control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=kubeconfig))
    assert answer["status"]["userInfo"]["username"] == "system:serviceaccount:" + ":".join(account)
    with pytest.raises(TestbedError, match=r"cannot list resource .secrets."):
        control_plane.kubectl("get", "secrets", "--all-namespaces", kubeconfig=kubeconfig)


def test_the_agent_may_not_make_migrations(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.account_kubeconfig(*AGENT)
    control_plane.kubectl("get", "diskmigrations", "--all-namespaces", kubeconfig=kubeconfig)
    with pytest.raises(TestbedError, match=r"cannot delete resource .diskmigrations."):
        control_plane.kubectl("delete", "diskmigrations", "any", kubeconfig=kubeconfig)


def test_a_token_of_a_pod_names_its_node(control_plane: ControlPlane) -> None:
    control_plane.create_node("node-of-token", {})
    kubeconfig = control_plane.account_kubeconfig(*AGENT, node="node-of-token")
    answer = json.loads(control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=kubeconfig))
    extra = answer["status"]["userInfo"]["extra"]
    assert extra["authentication.kubernetes.io/node-name"] == ["node-of-token"]
    control_plane.kubectl("delete", "node", "node-of-token")


def test_objects_and_tokens_outlive_the_apiserver(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.account_kubeconfig(*AGENT)
    control_plane.create_node("node-before", {"rack": "seven"})
    control_plane.stop_api_server()
    try:
        with pytest.raises(TestbedError, match="refused"):
            control_plane.kubectl("get", "nodes")
    finally:
        control_plane.start_api_server()
    assert control_plane.kubectl("get", "nodes", "--selector=rack=seven", "--output=name") == "node/node-before\n"
    control_plane.kubectl("auth", "whoami", kubeconfig=kubeconfig)
    control_plane.kubectl("delete", "node", "node-before")
