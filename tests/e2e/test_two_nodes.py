"""Two nodes with a VM of one name each; and what an agent that was taken over could do to the other node."""

import json
from functools import partial
from pathlib import Path

import pytest

from diskmigration.api import names
from diskmigration.cluster import client, leases
from diskmigration.cluster.errors import RefusedError
from testbed.cluster import Cluster
from tests.e2e import installation
from tests.e2e.user import FILES, LOOPS, NAMESPACE, apply_migration, writing_guest
from tests.waiting import wait_until

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path, no secret


def test_one_name_on_two_nodes(installed: Cluster, scratch: Path) -> None:
    nodes = installed.nodes
    with (
        writing_guest(nodes["node-a"], "twin", scratch) as here,
        writing_guest(nodes["node-b"], "twin", scratch) as there,
    ):
        for node in nodes:
            wait_until(partial(_knows, installed, node, "twin"), f"{node} has told of its VM", seconds=60)
        refused = apply_migration(installed, "which-one", "twin", to=LOOPS)
        failure = refused.wait_for_phase("Failed")["failure"]
        assert failure["reason"] == "VirtualMachineAmbiguous"
        assert "nodeName" in failure["message"]

        status = apply_migration(installed, "that-one", "twin", to=LOOPS, node="node-b").succeed()
        assert status["nodeName"] == "node-b"
        assert LOOPS in there.active_path.parts
        assert FILES in here.active_path.parts
        for machine in (here, there):
            machine.goes_on()
            machine.stop_and_verify()


def test_an_agents_own_token_ends_at_its_node(installed: Cluster) -> None:
    """With the token that the kubelet gave to the agent's pod on node-a."""
    kubeconfig = installed.control_plane.token_kubeconfig("agent-of-node-a", _token_of_agent(installed, "node-a"))
    agent = client.connect(kubeconfig)

    def write_host(node: str) -> None:
        found = agent.get(names.LIBVIRT_HOSTS, node)
        assert found is not None
        agent.apply_status(
            names.LIBVIRT_HOSTS,
            node,
            found["status"],
            uid=found["metadata"]["uid"],
            field_manager=names.AGENT_FIELD_MANAGER,
        )

    def renew(node: str) -> None:
        holder = names.AGENT_FIELD_MANAGER
        leases.renew_lease(agent, installation.SYSTEM_NAMESPACE, node, holder=holder, duration_seconds=20)

    for write in (write_host, renew):
        write("node-a")
        with pytest.raises(RefusedError, match="node-b"):
            write("node-b")


def test_agents_see_the_migrations_of_their_own_node_alone(installed: Cluster) -> None:
    migrations = json.loads(
        installed.kubectl(
            "get",
            "diskmigrations",
            f"--namespace={NAMESPACE}",
            "--field-selector=status.nodeName=node-b",
            "--output=json",
        )
    )["items"]
    assert {migration["status"]["nodeName"] for migration in migrations} <= {"node-b"}
    logs = {
        pod["spec"]["nodeName"]: installed.kubectl(
            "logs", pod["metadata"]["name"], f"--namespace={installation.SYSTEM_NAMESPACE}"
        )
        for pod in installation.pods(installed, "agent")
    }
    for migration in migrations:
        assert migration["metadata"]["name"] not in logs["node-a"]


def _knows(cluster: Cluster, node: str, vm: str) -> bool:
    names = cluster.kubectl("get", "libvirthost", node, "--output=jsonpath={.status.virtualMachines[*].name}")
    return vm in names.split()


def _token_of_agent(cluster: Cluster, node: str) -> str:
    pod = next(pod for pod in installation.pods(cluster, "agent") if pod["spec"]["nodeName"] == node)
    namespace = f"--namespace={installation.SYSTEM_NAMESPACE}"
    return cluster.kubectl("exec", pod["metadata"]["name"], namespace, "--", "cat", TOKEN)
