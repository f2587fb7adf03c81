"""`kubectl apply -k deploy/overlays/dev` on a cluster, again, and away."""

from testbed.cluster import Cluster
from tests.e2e import installation
from tests.e2e.installation import SYSTEM_NAMESPACE


def test_everything_comes_up(installed: Cluster) -> None:
    operators, agents = (installation.pods(installed, part) for part in ("operator", "agent"))
    assert len(operators) == 2
    assert {pod["spec"]["nodeName"] for pod in agents} == set(installed.nodes)
    for pod in (*operators, *agents):
        assert [container["restartCount"] for container in pod["status"]["containerStatuses"]] == [0]
        assert any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"])
    assert any(installation.leader(installed).startswith(pod["metadata"]["name"]) for pod in operators)


def test_applied_again_it_changes_nothing(installed: Cluster) -> None:
    generation = ("get", "pdb", "--all-namespaces", "--output=jsonpath={.items[*].metadata.generation}")
    before = installed.kubectl(*generation)
    told = [line for line in installation.apply(installed) if not line.endswith(" unchanged")]
    # kubectl sends the selector of one each time, as it is a field that is replaced and not merged, and says so.
    assert told == ["poddisruptionbudget.policy/diskmigration-operator configured"]
    assert installed.kubectl(*generation) == before


def test_the_programs_answer_their_services(installed: Cluster) -> None:
    for service in ("diskmigration-operator-metrics", "diskmigration-agent-metrics"):
        addresses = installed.kubectl(
            "get",
            "endpointslices",
            f"--namespace={SYSTEM_NAMESPACE}",
            f"--selector=kubernetes.io/service-name={service}",
            "--output=jsonpath={.items[*].endpoints[*].addresses[0]}",
        )
        assert len(addresses.split()) == 2, service
