"""A node whose clock is ten minutes off changes no deadline, no cutover and no TTL, and says so."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.migrations import skewed_agent
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.skewed_agent import VARIABLE
from tests.integration.migrations.stack import Stack
from tests.variants import first_by_day
from tests.waiting import wait_until

_OFF_SECONDS = 600
_TOLERATED_SECONDS = 10


@pytest.fixture
def off(stack: Stack, request: pytest.FixtureRequest) -> Iterator[None]:
    """The agent's clock is ahead by so many seconds."""
    seconds = int(request.param)
    environment = {VARIABLE: str(seconds)}
    with stack.agent.running_with(module=skewed_agent.__name__, environment=environment):
        wait_until(lambda: stack.host_object()["status"].get("clockSkewSeconds") == seconds, "the node says so")
        yield
    wait_until(lambda: "clockSkewSeconds" not in stack.host_object()["status"], "the node says nothing of it")


@pytest.mark.usefixtures("off")
@pytest.mark.parametrize("off", first_by_day([_OFF_SECONDS, -_OFF_SECONDS]), indirect=True)
def test_deadlines_cutovers_and_ttls_are_those_of_the_api_server(
    stack: Stack, machines: Callable[..., Machine]
) -> None:
    machine = machines("file-a")
    begun = datetime.now(UTC).replace(microsecond=0)
    cutover = begun + timedelta(seconds=10)
    migration = stack.migrate(
        machine,
        "file-b",
        activeDeadlineSeconds=120,
        ttlSecondsAfterFinished=10,
        cutover={"notBefore": cutover.strftime("%Y-%m-%dT%H:%M:%SZ")},
    )
    status = migration.succeed()
    times = {
        name: datetime.fromisoformat(status[name]) for name in ("synchronizedTime", "pivotedTime", "completionTime")
    }
    now = datetime.now(UTC)
    for name, moment in times.items():
        assert begun <= moment <= now + timedelta(seconds=_TOLERATED_SECONDS), name
    assert times["pivotedTime"] >= cutover - timedelta(seconds=_TOLERATED_SECONDS)
    machine.verify()

    late = stack.migrate(machine, "file-a", activeDeadlineSeconds=5, cutover={"policy": "Manual"})
    late.wait_for_phase("Failed")
    assert late.status()["failure"]["reason"] == "DeadlineExceeded"
    wait_until(migration.is_gone, "its TTL has deleted it", seconds=60)
