"""What a run needs before its first migration: nodes, their agents' tokens, storage domains and namespaces."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import urllib3

from diskmigration.api import names
from diskmigration.cluster.client import Cluster
from testbed.control_plane import ControlPlane
from testbed.processes import TestbedError
from testbed.programs import Program
from tests.scale.fleet import Plan

ACCOUNT = "diskmigration-agent"
AGENTS_PER_PROCESS = 100
_CALLERS = 8


class Stage:
    """Makes them, many requests at a time."""

    def __init__(self, control_plane: ControlPlane, admin: Cluster, directory: Path) -> None:
        self._control_plane = control_plane
        self._admin = admin
        self._directory = directory
        self._credentials = admin.credentials()
        self._pool = urllib3.PoolManager(ca_certs=self._credentials.ca_path, maxsize=_CALLERS)

    def make_nodes(self, nodes: list[str]) -> dict[str, str]:
        """Makes the Nodes; the kubeconfig of each one's agent, its token bound to a Pod on that node."""
        with ThreadPoolExecutor(_CALLERS) as callers:
            return dict(zip(nodes, callers.map(self._make_node, nodes), strict=True))

    def _make_node(self, name: str) -> str:
        self._post("nodes", {"metadata": {"name": name}})
        pod_name = f"agent-{name}"
        pod = {
            "metadata": {"name": pod_name},
            "spec": {
                "serviceAccountName": ACCOUNT,
                "nodeName": name,
                "containers": [{"name": "process", "image": "runs-on-this-machine"}],
            },
        }
        of_system = f"namespaces/{names.SYSTEM_NAMESPACE}"
        made = self._post(f"{of_system}/pods", pod)
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod_name, "uid": made["metadata"]["uid"]}
        request = {"spec": {"audiences": [], "expirationSeconds": 24 * 3600, "boundObjectRef": bound}}
        token = self._post(f"{of_system}/serviceaccounts/{ACCOUNT}/token", request)
        return str(self._control_plane.token_kubeconfig(pod_name, token["status"]["token"]))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Makes an object of a kind that the programs under test do not know."""
        answer = self._pool.request(
            "POST",
            f"{self._credentials.server}/api/v1/{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._credentials.token}"},
        )
        made: dict[str, Any] = answer.json()
        if answer.status >= 300:
            raise TestbedError(f"POST {path}: HTTP {answer.status}: {made.get('message')}")
        return made

    def make_domains(self, places: dict[str, int]) -> None:
        """Makes storage domains with so many places, by name."""
        for name, limit in places.items():
            spec = {"file": {"path": f"/srv/{name}"}, "allowedNamespaces": ["*"], "maxConcurrentMigrations": limit}
            self._admin.apply(names.STORAGE_DOMAINS, name, {"spec": spec}, field_manager="kubectl")

    def make_namespaces(self, count: int) -> list[str]:
        made = [f"vms-{number}" for number in range(count)]
        for name in made:
            self._post("namespaces", {"metadata": {"name": name}})
        return made

    @contextmanager
    def agents(
        self,
        kubeconfigs: dict[str, str],
        *,
        machines: int,
        step_seconds: dict[str, float],
        wait_until_ready: Callable[[int], None],
    ) -> Iterator["Fleet"]:
        """Runs all agents until the end of the block.

        They start by the hundred, and `wait_until_ready` waits for so many: a thousand that list everything at one
        moment keep two cores from answering anybody.
        """
        items = list(kubeconfigs.items())
        numbers = {name: (index, index + machines * len(items), len(items)) for index, name in enumerate(kubeconfigs)}
        fleet = Fleet()
        with ExitStack() as running:
            for number, begin in enumerate(range(0, len(items), AGENTS_PER_PROCESS)):
                counts = self._directory / f"counts-{number}.json"
                plan = Plan(
                    nodes := dict(items[begin : begin + AGENTS_PER_PROCESS]),
                    {name: numbers[name] for name in nodes},
                    step_seconds,
                    str(counts),
                )
                path = self._directory / f"plan-{number}.json"
                path.write_text(json.dumps(asdict(plan)))
                root = Path(__file__).parents[2]
                program = Program(
                    ["tests.scale.fleet", str(path)], log=self._directory / f"agents-{number}.log", path=[root]
                )
                program.start()
                running.callback(program.stop)
                fleet.programs.append(program)
                fleet.counts.append(counts)
                wait_until_ready(min(begin + AGENTS_PER_PROCESS, len(items)))
            yield fleet


class Fleet:
    """The processes of the agents."""

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.counts: list[Path] = []

    def stop(self) -> dict[str, dict[str, int]]:
        """Ends them; the counts of each agent by its node."""
        for program in self.programs:
            program.terminate()
        for program in self.programs:
            program.stop()
        return {node: counts for path in self.counts for node, counts in json.loads(path.read_text()).items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
