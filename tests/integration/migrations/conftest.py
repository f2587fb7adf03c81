"""A cluster with one node, the operator, the agent and four storage domains: real, and one for all these tests."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diskmigration.cluster import client
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import Program, running_agent, running_operator
from tests.integration.agent.probes import Probes, free_port
from tests.integration.migrations.machines import Domain, Machine, empty, make_machine, remove_machine
from tests.integration.migrations.stack import NAMESPACE, NODE, Stack, make_domain
from tests.integration.one_node import one_node

GRACE_SECONDS = 2


@pytest.fixture(scope="package")
def directory(session_directory: Path) -> Iterator[Path]:
    """Where all these parts keep what they have."""
    directory = session_directory / "migrations"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="package")
def own_control_plane(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The control plane with the one node; until the end of these tests no others use it."""
    with one_node(control_plane, NODE, NAMESPACE):
        yield control_plane


@pytest.fixture(scope="package")
def operator(own_control_plane: ControlPlane, directory: Path) -> Iterator[Program]:
    """Its operator."""
    with running_operator(own_control_plane, directory, f"--acceptance-grace-seconds={GRACE_SECONDS}") as program:
        yield program


@pytest.fixture(scope="package")
def probes() -> Probes:
    """The agent's HTTP port."""
    return Probes(free_port())


@pytest.fixture(scope="package")
def stack(
    directory: Path, own_control_plane: ControlPlane, operator: Program, libvirt_host: LibvirtHost, probes: Probes
) -> Iterator[Stack]:
    """The whole of it, ready: both storage domains of each kind are reached by the node."""
    domains = {
        name: make_domain(directory, name, name.split("-")[0]) for name in ("file-a", "file-b", "loop-a", "loop-b")
    }
    with running_agent(own_control_plane, libvirt_host, NODE, directory, f"--http-port={probes.port}") as agent:
        cluster = client.connect(own_control_plane.admin_kubeconfig)
        stack = Stack(own_control_plane, cluster, libvirt_host, agent, domains)
        stack.make_ready(domains)
        yield stack


@pytest.fixture
def machines(stack: Stack) -> Iterator[Callable[..., Machine]]:
    """Makes VMs on one of the storage domains, by its name, or on another one; at the end they and all volumes go."""
    made: list[Machine] = []

    def make(domain: str | Domain, **options: Any) -> Machine:
        place = stack.domains[domain] if isinstance(domain, str) else domain
        machine = make_machine(stack.host, place, **options)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        remove_machine(machine)
    for domain in stack.domains.values():
        empty(domain)
