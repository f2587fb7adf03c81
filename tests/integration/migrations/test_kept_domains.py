"""The extender needs no API server to start, and extends the volumes of a StorageDomain that is not there any more."""

import json
import operator
import uuid
from collections.abc import Callable, Iterator

import pytest

from diskmigration.agent.storage.kept_domains import FILE_NAME
from testbed.control_plane import ControlPlane
from tests.integration.migrations.growth import finish, free_bytes, size_bytes, synchronized, write_in_steps
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine, empty
from tests.integration.migrations.stack import NODE, Stack, make_domain, storage_domain
from tests.integration.migrations.volumes import made_volume
from tests.waiting import wait_until

Machines = Callable[..., Machine]


@pytest.fixture
def without_api_server(stack: Stack, own_control_plane: ControlPlane) -> Iterator[None]:
    """The agent ended, and so did the API server: both are back at the end."""
    stack.agent.stop()
    own_control_plane.stop_api_server()
    yield
    own_control_plane.start_api_server()
    stack.agent.stop()
    stack.agent.start()
    stack.make_ready(stack.domains)


@pytest.fixture
def deleted_domain(stack: Stack) -> Iterator[Domain]:
    """A storage domain, ready. Asked for before `machines`, whose VMs have to be gone at its end."""
    domain = make_domain(stack.domains["loop-a"].root.parent, f"loop-{uuid.uuid4().hex[:8]}", "loop")
    stack.make_ready({domain.name: domain})
    yield domain
    stack.control_plane.kubectl("delete", "storagedomain", domain.name, "--ignore-not-found")
    empty(domain)


def assert_extended(machine: Machine) -> None:
    """Its thin volume grows as the guest writes, before it is full."""
    volume = machine.volumes[0]
    before = size_bytes(volume)
    write_in_steps(machine, start=20 * MEBIBYTE, length=40 * MEBIBYTE, free=lambda: free_bytes(machine, volume.name))
    wait_until(lambda: size_bytes(volume) > before, "it grew")
    machine.verify()


def test_an_agent_that_starts_while_the_api_server_is_away_extends_thin_volumes(
    stack: Stack, machines: Machines, request: pytest.FixtureRequest
) -> None:
    machine = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    request.getfixturevalue("without_api_server")

    stack.agent.start()

    assert_extended(machine)


@pytest.mark.nightly
def test_an_interrupted_migration_is_extended_and_waits_for_the_api_server(
    stack: Stack, machines: Machines, own_control_plane: ControlPlane
) -> None:
    machine = machines("loop-a", volume_bytes=32 * MEBIBYTE)
    migration = synchronized(stack, machine, "loop-b", strategy="Direct")
    source, copy = machine.volumes[0].name, made_volume(migration.uid, 0)
    sides = machine.volumes[0], stack.domains["loop-b"].path(copy)
    before = [size_bytes(volume) for volume in sides]

    stack.agent.stop()
    own_control_plane.stop_api_server()
    try:
        stack.agent.start()
        write_in_steps(
            machine,
            start=20 * MEBIBYTE,
            length=60 * MEBIBYTE,
            free=lambda: min(free_bytes(machine, source), free_bytes(machine, copy, mirrored=source)),
        )
        wait_until(lambda: all(map(operator.lt, before, map(size_bytes, sides))), "both sides grew")
        # Nothing is pivoted, as its user may have cancelled it meanwhile.
        assert "<mirror" in machine.xml()
    finally:
        own_control_plane.start_api_server()
    finish(migration, machine)


def test_volumes_of_a_deleted_storage_domain_are_extended_by_the_next_agent(
    stack: Stack, deleted_domain: Domain, machines: Machines
) -> None:
    machine = machines(deleted_domain, volume_bytes=32 * MEBIBYTE)
    stack.control_plane.kubectl("delete", "storagedomain", deleted_domain.name)
    kept = stack.agent.log.parent / f"agent-{NODE}" / FILE_NAME
    wait_until(lambda: deleted_domain.name in json.loads(kept.read_text())["deleted"], "the agent keeps it as deleted")

    stack.agent.kill()
    stack.agent.start()

    assert_extended(machine)


@pytest.mark.nightly
@pytest.mark.parametrize("contents", ["", "{", "[]"])
def test_a_damaged_file_of_storage_domains_is_told_of_and_written_again(stack: Stack, contents: str) -> None:
    kept = stack.agent.log.parent / f"agent-{NODE}" / FILE_NAME
    stack.agent.stop()
    kept.write_text(contents)
    before = told_of_file(stack)

    stack.agent.start()

    wait_until(lambda: told_of_file(stack) > before, "it tells of the file")
    wait_until(lambda: kept.read_text().startswith('{\n "deleted"'), "the file is written again")
    assert storage_domain(stack.domains["loop-a"])["metadata"]["name"] in kept.read_text()


def told_of_file(stack: Stack) -> int:
    return stack.agent.log.read_text().count("kept on the host cannot be read")
