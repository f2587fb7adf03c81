"""The scale test in small, so that it works when it is needed; its figures are for `make scale` to judge."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scale.run import Load, run
from tests.scale.table import table

LOAD = Load(
    agents=20,
    migrations=120,
    step_seconds=0.5,
    calm=10,
    queued=20,
    places=8,
    narrow_step_seconds=0.1,
    idle_seconds=2,
    least_patience_seconds=150,
)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Short, on a disk, and removed whatever the outcome: etcd's files are large.
    made = Path(tempfile.mkdtemp(prefix="dm-scale-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.mark.nightly
def test_every_migration_ends_and_every_agent_hears_of_its_own_alone(directory: Path) -> None:
    found = run(directory, LOAD, print)
    assert found.defects == []
    assert found.ended == found.wanted == LOAD.migrations + LOAD.calm + LOAD.queued
    assert found.foreign_events == 0
    assert found.agents_that_heard_nothing == 0
    # From the operator's hands to the end, each of its own: Scheduled, the agent's phases, and the end.
    assert found.agent_events_p50 >= LOAD.migrations / LOAD.agents
    assert found.watch_events > 0
    assert "apply -> Scheduled, p99" in table([found])
