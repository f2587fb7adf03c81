"""A cluster with one node, the operator, the agent and four storage domains: real, and one for all these tests."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from diskmigration.cluster import client
from testbed.control_plane import running_control_plane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import running_agent, running_operator
from tests.integration.migrations.machines import Domain, Machine, make_machine, remove_machine
from tests.integration.migrations.stack import NAMESPACE, NODE, Stack, make_domain, storage_domain, wait_until

GRACE_SECONDS = 2


@pytest.fixture(scope="session")
def stack(session_directory: Path, libvirt_host: LibvirtHost) -> Iterator[Stack]:
    """The whole of it, ready: both storage domains of each kind are reached by the node."""
    directory = session_directory / "migrations"
    directory.mkdir()
    domains = {
        name: make_domain(directory, name, name.split("-")[0]) for name in ("file-a", "file-b", "loop-a", "loop-b")
    }
    with ExitStack() as running:
        control_plane = running.enter_context(running_control_plane(directory / "control-plane"))
        control_plane.install_manifests()
        control_plane.create_node(NODE, {})
        control_plane.kubectl("create", "namespace", NAMESPACE)
        operator = running.enter_context(
            running_operator(control_plane, directory, f"--acceptance-grace-seconds={GRACE_SECONDS}")
        )
        agent = running.enter_context(running_agent(control_plane, libvirt_host, NODE, directory))
        stack = Stack(
            control_plane, client.connect(control_plane.admin_kubeconfig), libvirt_host, operator, agent, domains
        )
        for domain in domains.values():
            stack.apply(storage_domain(domain))
        wait_until(lambda: _ready_domains(stack) == set(domains), "the storage domains are ready", seconds=60)
        yield stack


def _ready_domains(stack: Stack) -> set[str]:
    printed = stack.control_plane.kubectl(
        "get",
        "storagedomains",
        '--output=jsonpath={range .items[?(@.status.readyNodes==1)]}{.metadata.name}{"\\n"}{end}',
    )
    return set(printed.split())


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
        _empty(domain.root)


def _empty(root: Path) -> None:
    attached = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output=NAME,BACK-FILE"], capture_output=True, text=True, check=True
    ).stdout
    for line in attached.splitlines():
        device, _, backing = line.partition(" ")
        if Path(backing.strip()).is_relative_to(root):
            subprocess.run(["losetup", "--detach", device], check=True)
    for entry in root.rglob("*"):
        if not entry.is_dir():
            entry.unlink()
