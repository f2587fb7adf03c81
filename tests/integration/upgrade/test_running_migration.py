"""A migration that runs while the CRDs, the roles and both programs are replaced ends well."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from diskmigration.cluster import client
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import SYSTEM_NAMESPACE, Program, running_agent, running_operator
from tests.integration.migrations.machines import MEBIBYTE, Machine, make_machine, remove_machine
from tests.integration.migrations.stack import NODE, Stack, make_domain, storage_domain
from tests.integration.upgrade.conftest import PREVIOUS_PROGRAMS
from tests.waiting import wait_until


@pytest.fixture
def previous_operator(previous: ControlPlane, scratch: Path) -> Iterator[Program]:
    kubeconfig = previous.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-operator")
    arguments = ["diskmigration.controller", f"--kubeconfig={kubeconfig}", "--http-port=0", "--no-leader-elect"]
    program = Program(arguments, log=scratch / "previous-operator.log", source=PREVIOUS_PROGRAMS)
    program.start()
    yield program
    program.stop()


@pytest.fixture
def previous_agent(previous: ControlPlane, libvirt_host: LibvirtHost, scratch: Path) -> Iterator[Program]:
    previous.create_node(NODE, {})
    kubeconfig = previous.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
    arguments = [
        "diskmigration.agent",
        f"--kubeconfig={kubeconfig}",
        f"--node-name={NODE}",
        f"--libvirt-uri={libvirt_host.uri}",
        f"--lock-file={scratch / f'agent-{NODE}.lock'}",
        f"--state-directory={scratch / f'agent-{NODE}'}",
        "--http-port=0",
    ]
    program = Program(arguments, log=scratch / "previous-agent.log", source=PREVIOUS_PROGRAMS)
    program.start()
    yield program
    program.stop()


@pytest.fixture
def stack(previous: ControlPlane, previous_agent: Program, libvirt_host: LibvirtHost, scratch: Path) -> Stack:
    """With two storage domains."""
    domains = {name: make_domain(scratch, name, "file") for name in ("file-a", "file-b")}
    cluster = client.connect(previous.admin_kubeconfig)
    stack = Stack(control_plane=previous, cluster=cluster, host=libvirt_host, agent=previous_agent, domains=domains)
    for domain in domains.values():
        stack.apply(storage_domain(domain))
    return stack


@pytest.fixture
def machine(stack: Stack) -> Iterator[Machine]:
    made = make_machine(stack.host, stack.domains["file-a"], chain=2)
    yield made
    remove_machine(made)


def test_a_running_migration_ends_well(
    previous: ControlPlane,
    previous_operator: Program,
    previous_agent: Program,
    stack: Stack,
    machine: Machine,
    scratch: Path,
) -> None:
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    uid = migration.uid

    # In the documented order: the CRDs and the roles, under which the previous programs go on ...
    previous.install_manifests()
    before = migration.get()
    migration.patch({"bandwidth": "100Mi"})
    wait_until(
        lambda: migration.status()["observedGeneration"] > before["status"]["observedGeneration"],
        "the previous agent has written a status under the new roles and schema",
    )
    machine.write(offset=64 * MEBIBYTE, length=MEBIBYTE, pattern=0x51)

    with ExitStack() as running:
        # ... then the operator, and then the agent, which finds the job that the previous one began.
        previous_operator.stop()
        running.enter_context(running_operator(previous, scratch))
        previous_agent.stop()
        machine.write(offset=66 * MEBIBYTE, length=MEBIBYTE, pattern=0x52)
        running.enter_context(running_agent(previous, stack.host, NODE, scratch))
        assert migration.phase() == "Synchronized"

        migration.patch({"cutover": {"policy": "Automatic"}})
        status = migration.succeed()
    assert migration.uid == uid
    assert status["attempts"] == 1
    assert [stack.domains["file-b"].root in Path(path).parents for path, _ in machine.chain()] == [True, True]
    assert stack.domains["file-a"].files() == []
    machine.verify()
