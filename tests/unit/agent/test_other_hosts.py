"""Where else a VM runs, as the other nodes' agents wrote it."""

from datetime import timedelta

import pytest

from diskmigration.agent.other_hosts import HostsUnknownError, OtherHost, is_current, where_running
from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.cluster.leases import Lease
from tests.unit.agent.builders import EPOCH

UUID = "2d0b5a0e-52b9-4b5f-8a4e-3c1b2a6f7d11"


def host(name: str, state: str | None = None, *, ready: str = "True") -> LibvirtHost:
    machines = [{"name": "web", "uuid": UUID, "state": state}] if state is not None else []
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "LibvirtAnswers",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return LibvirtHost.from_wire(
        {"metadata": {"name": name}, "status": {"virtualMachines": machines, "conditions": [condition]}}
    )


def other(name: str, state: str | None = None, *, current: bool = True) -> OtherHost:
    return OtherHost(host(name, state), current)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ((), None),
        ((other("b"),), None),
        ((other("b", "ShutOff"),), None),
        ((other("b", "Running"),), "b"),
        ((other("b"), other("c", "Paused")), "c"),
        # What cannot be told counts as running.
        ((other("b", "Unknown"),), "b"),
        # One that is not heard of any more and never had it.
        ((other("b", current=False), other("c")), None),
        ((other("b", "ShutOff", current=False), other("c", "Running")), "c"),
    ],
)
def test_where_it_runs(hosts: tuple[OtherHost, ...], expected: str | None) -> None:
    assert where_running(UUID, hosts) == expected


@pytest.mark.parametrize("state", ["Running", "ShutOff"])
def test_a_node_that_had_it_and_is_not_heard_of_makes_it_unknown(state: str) -> None:
    with pytest.raises(HostsUnknownError, match="was on b "):
        where_running(UUID, (other("b", state, current=False), other("c", "ShutOff")))


@pytest.mark.parametrize(
    ("age_seconds", "ready", "expected"),
    [(0, "True", True), (20, "True", True), (21, "True", False), (0, "False", False)],
)
def test_what_is_current(age_seconds: int, ready: str, expected: bool) -> None:
    lease = Lease("agent", EPOCH, 20)
    assert is_current(host("b", ready=ready), lease, now=EPOCH + timedelta(seconds=age_seconds)) is expected


def test_a_node_without_a_lease_is_not_current() -> None:
    assert not is_current(host("b"), None, now=EPOCH)
