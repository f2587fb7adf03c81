"""A cluster with one node whose every part can be broken, for these tests alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diskmigration.cluster import client
from testbed.control_plane import ControlPlane, running_control_plane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import SYSTEM_NAMESPACE, Program, running_agent_as, running_operator
from tests.integration.faults.cells import RECOVERY
from tests.integration.faults.faults import STALE_SECONDS
from tests.integration.faults.held_agent import DIRECTORY
from tests.integration.faults.holds import Holds
from tests.integration.faults.link import Link, running_link
from tests.integration.migrations.conftest import machines
from tests.integration.migrations.machines import Domain
from tests.integration.migrations.small import small_domain
from tests.integration.migrations.stack import NAMESPACE, NODE, Stack, make_domain

# The fixture is asked for by its name.
__all__ = ["machines"]

_REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def directory(session_directory: Path) -> Iterator[Path]:
    """Where all these parts keep what they have."""
    directory = session_directory / "faults"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="package")
def own_control_plane(directory: Path) -> Iterator[ControlPlane]:
    """A control plane for these tests alone, with the one node."""
    with running_control_plane(directory / "control-plane") as control_plane:
        control_plane.install_manifests()
        control_plane.create_node(NODE, {})
        control_plane.kubectl("create", "namespace", NAMESPACE)
        yield control_plane


@pytest.fixture(scope="package")
def operator(own_control_plane: ControlPlane, directory: Path) -> Iterator[Program]:
    """Its operator, which takes an agent for dead soon; whoever comes just after that has the time to wait for it."""
    options = ("--acceptance-grace-seconds=60", f"--lease-stale-seconds={STALE_SECONDS}", "--lease-poll-seconds=1")
    with running_operator(own_control_plane, directory, *options) as program:
        yield program


@pytest.fixture(scope="package")
def link(own_control_plane: ControlPlane) -> Iterator[Link]:
    """The agent's way to the API server."""
    with running_link(own_control_plane.url) as link:
        yield link


@pytest.fixture(scope="package")
def whole_holds(directory: Path) -> Holds:
    """What the agent's migrations are held with."""
    holds = Holds(directory / "holds")
    holds.directory.mkdir()
    return holds


@pytest.fixture
def holds(whole_holds: Holds) -> Iterator[Holds]:
    """The same for one test, at whose end nobody waits any more."""
    yield whole_holds
    whole_holds.release()


@pytest.fixture(scope="package")
def stack(
    directory: Path,
    own_control_plane: ControlPlane,
    operator: Program,
    libvirt_host: LibvirtHost,
    link: Link,
    whole_holds: Holds,
) -> Iterator[Stack]:
    """The whole of it, ready."""
    domains = {name: make_domain(directory, name, name.split("-")[0]) for name in ("file-a", "loop-b")}
    kubeconfig = own_control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
    with running_agent_as(
        link.kubeconfig(kubeconfig),
        libvirt_host,
        NODE,
        directory,
        module="tests.integration.faults.held_agent",
        path=[_REPOSITORY],
        environment={DIRECTORY: str(whole_holds.directory)},
    ) as agent:
        stack = Stack(
            own_control_plane, client.connect(own_control_plane.admin_kubeconfig), libvirt_host, agent, domains
        )
        stack.make_ready(domains)
        yield stack


@pytest.fixture
def block(stack: Stack, scratch: Path) -> Iterator[Domain]:
    """A storage domain of its own: how long an extension took on one makes the next ones there larger."""
    with small_domain(stack, scratch, "loop") as small:
        yield small.domain


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the whole matrix: how each migration ended, and how long after the fault's end."""
    rows = {
        report.nodeid.partition("[")[2].partition("]")[0]: dict(report.user_properties)[RECOVERY]
        for report in terminalreporter.getreports("passed")
        if RECOVERY in dict(report.user_properties)
    }
    if not rows:
        return
    terminalreporter.section("how each ended, with every acknowledged write there and nothing left")
    width = max(map(len, rows))
    for cell, recovery in sorted(rows.items()):
        terminalreporter.write_line(f"{cell:{width}}  {recovery}")
