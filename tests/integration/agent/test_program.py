"""The agent as a program in a pod: its probes, its end, and what it does when it cannot watch any more."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diskmigration.agent.hypervisor.connection import OPEN_SECONDS, Connection
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import Program, running_agent
from tests.integration.agent.probes import Probes, free_port
from tests.integration.freezing import frozen_api_server
from tests.variants import first_by_day
from tests.waiting import wait_until

NODE = "node-of-the-probes"
SHORT_SECONDS = 10
GRACE_SECONDS = 30
"""A pod's terminationGracePeriodSeconds."""


@pytest.fixture
def probes() -> Probes:
    return Probes(free_port())


@pytest.fixture
def agent(control_plane: ControlPlane, libvirt_host: LibvirtHost, probes: Probes, scratch: Path) -> Iterator[Program]:
    with running_agent(control_plane, libvirt_host, NODE, scratch, f"--http-port={probes.port}") as program:
        wait_until(probes.is_ready, "the agent is ready", seconds=60)
        yield program


def stop(agent: Program) -> tuple[int, float]:
    """SIGTERM: the exit status, and how many seconds it took."""
    begun = time.monotonic()
    agent.terminate()
    return agent.wait(), time.monotonic() - begun


@pytest.mark.nightly
def test_a_libvirtd_that_hangs_makes_it_unready_and_never_unlive(
    agent: Program, probes: Probes, libvirt_host: LibvirtHost
) -> None:
    assert probes.is_live()
    libvirt_host.freeze_daemon()
    try:
        told = wait_until(probes.why_not_ready, "it says that it cannot work", seconds=60)
        assert told.startswith("libvirtd does not answer")
        assert "diskmigration_libvirt_up 0.0" in probes.ask("metrics")[1]
        assert probes.is_live(), probes.ask("livez")
    finally:
        libvirt_host.thaw_daemon()
    wait_until(probes.is_ready, "it works again", seconds=60)
    assert "diskmigration_libvirt_up 1.0" in probes.ask("metrics")[1]


def test_a_libvirtd_that_is_away_makes_it_unready_and_never_unlive(
    agent: Program, probes: Probes, libvirt_host: LibvirtHost
) -> None:
    libvirt_host.stop_daemon()
    try:
        assert "libvirtd" in wait_until(probes.why_not_ready, "it says that it cannot work")
        assert probes.is_live()
    finally:
        libvirt_host.start_daemon()
    wait_until(probes.is_ready, "it works again")


@pytest.mark.parametrize("is_frozen", first_by_day([True, False]))
def test_an_api_server_that_is_away_makes_it_unready_and_never_unlive(
    agent: Program, probes: Probes, control_plane: ControlPlane, is_frozen: bool
) -> None:
    if is_frozen:
        with frozen_api_server(control_plane):
            told = wait_until(probes.why_not_ready, "it says that it cannot work", seconds=90)
            assert probes.is_live()
    else:
        control_plane.stop_api_server()
        try:
            told = wait_until(probes.why_not_ready, "it says that it cannot work")
            assert probes.is_live()
        finally:
            control_plane.start_api_server()
    assert told.startswith("the Kubernetes API does not answer")
    wait_until(probes.is_ready, "it works again", seconds=60)


def test_nobody_waits_for_ever_for_a_libvirtd_that_hangs(libvirt_host: LibvirtHost) -> None:
    connection = Connection(libvirt_host.uri)
    libvirt_host.freeze_daemon()
    try:
        for _ in range(2):
            begun = time.monotonic()
            with ThreadPoolExecutor(4) as threads:
                asked = [threads.submit(connection.versions) for _ in range(4)]
                for each in asked:
                    with pytest.raises(HypervisorUnavailableError, match="does not answer"):
                        each.result()
            # All at once, not one after the other.
            assert time.monotonic() - begun < OPEN_SECONDS + 3
    finally:
        libvirt_host.thaw_daemon()
    wait_until(lambda: connection.versions()[0], "libvirtd answers again")


def test_told_to_end_it_ends_soon_and_well(agent: Program) -> None:
    status, seconds = stop(agent)
    assert status == 0
    assert seconds < SHORT_SECONDS


def test_told_to_end_it_waits_for_no_libvirtd_that_hangs(agent: Program, libvirt_host: LibvirtHost) -> None:
    libvirt_host.freeze_daemon()
    try:
        status, seconds = stop(agent)
    finally:
        libvirt_host.thaw_daemon()
    assert status == 0
    assert seconds < GRACE_SECONDS


def test_told_to_end_it_waits_for_no_api_server_that_hangs(agent: Program, control_plane: ControlPlane) -> None:
    with frozen_api_server(control_plane):
        status, seconds = stop(agent)
    assert status == 0
    assert seconds < SHORT_SECONDS
