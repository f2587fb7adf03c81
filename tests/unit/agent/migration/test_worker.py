"""A worker outlives whatever its round raises, the handling of a failure included, and one that dies is replaced."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent import agent as agents
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.migration.context import DiskGoneError
from diskmigration.agent.migration.worker import Worker
from diskmigration.api.disk_migration import DiskMigrationStatus, Phase
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.observability import loops
from diskmigration.observability.health import Health
from tests.unit.agent.builders import migration
from tests.unit.agent.waiting import until

STALE = OSError(116, "Stale file handle")
OF_A_ROUND = [
    HypervisorUnavailableError("libvirtd does not answer."),
    DomainGoneError("The VM is gone."),
    DiskGoneError("vda"),
    MigrationError(Reason.STORAGE_FAILED, "It failed."),
    STALE,
    UnicodeError("surrogates not allowed"),
]


class Statuses:
    """Takes every status, and has it written at once."""

    def __init__(self) -> None:
        self.shown: list[DiskMigrationStatus] = []

    def show(self, _migration: Any, status: DiskMigrationStatus) -> None:
        self.shown.append(status)

    def wait_until_settled(self, _uid: str, **_: float) -> bool:
        return True

    def compare(self, _migration: Any) -> None:
        """Is told of every update."""

    def forget(self, _uid: str) -> None:
        """Is told at the end."""


class Scripted(Worker):
    """Raises in its rounds what it is given, one after the other, then ends well; its handlers raise `in_handlers`."""

    rounds: Iterator[BaseException]
    in_handlers: Exception | None = None

    def _look_and_act(self) -> bool:
        error = next(self.rounds, None)
        if error is not None:
            raise error
        return self._migration.end(Phase.SUCCEEDED, Reason.MIGRATED, "It ended.")

    def _recover(self, error: Exception) -> bool:
        if self.in_handlers is not None:
            raise self.in_handlers from error
        return False


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "PAUSE_SECONDS", 0.0)


def worker(*rounds: BaseException, in_handlers: Exception | None = None) -> tuple[Scripted, Statuses]:
    statuses = Statuses()
    node: Any = SimpleNamespace(name="node-a")
    found = Scripted(node, migration(), statuses)  # type: ignore[arg-type]  # all that it asks of them is there
    found.rounds, found.in_handlers = iter(rounds), in_handlers
    return found, statuses


@pytest.mark.parametrize("in_handlers", [None, STALE, MigrationError(Reason.STORAGE_FAILED, "It failed again.")])
@pytest.mark.parametrize("of_a_round", OF_A_ROUND, ids=lambda error: type(error).__name__)
def test_it_goes_on_after_whatever_is_raised(of_a_round: Exception, in_handlers: Exception | None) -> None:
    found, statuses = worker(of_a_round, in_handlers=in_handlers)
    found.notice(SimpleNamespace(uuid=None))  # type: ignore[arg-type]  # wakes it, as nothing else happens here
    found.start()
    until(lambda: not found.is_alive())
    assert not found.has_died()
    assert statuses.shown[-1].phase is Phase.SUCCEEDED
    told = {condition.message for status in statuses.shown[:-1] for condition in status.conditions}
    # Before there is an attempt, too.
    assert bool(told) == (in_handlers is not None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_died_is_known_from_one_that_has_ended_or_was_stopped() -> None:
    died, _ = worker(SystemExit())
    ended, _ = worker()
    stopped, _ = worker()
    stopped.stop()
    for each in (died, ended, stopped):
        each.start()
        until(lambda each=each: not each.is_alive())  # type: ignore[misc]  # mypy cannot infer a default's type here
    assert [each.has_died() for each in (died, ended, stopped)] == [True, False, False]


def any_agent(directory: Path) -> agents.Agent:
    return agents.Agent(
        cluster=SimpleNamespace(),  # type: ignore[arg-type]  # nothing is started that asks it
        libvirt_uri="test:///default",
        node_name="node-a",
        namespace="system",
        agent_version="",
        health=Health(),
        state_directory=directory,
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_died_is_started_again_and_one_that_has_ended_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    made: list[Worker] = []
    lives = iter([SystemExit()])

    def make(node: Any, of: Any, statuses: Any, on_end: Any) -> Worker:
        found, _ = worker(*([error] if (error := next(lives, None)) is not None else []))
        made.append(found)
        return found

    monkeypatch.setattr(agents, "Worker", make)
    agent = any_agent(tmp_path)
    delegated = migration().model_copy(update={"status": DiskMigrationStatus(node_name="node-a")})
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            agent.observe_migration(delegated)
            until(lambda: not made[-1].is_alive())
    assert len(made) == 2
    assert [record.__dict__["migration"] for record in caplog.records] == ["vms/web-1"]


@pytest.mark.parametrize("is_seen_first", [True, False])
def test_nothing_stays_of_one_whose_end_was_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_seen_first: bool
) -> None:
    """The API server may tell of the end before the worker has erased the journal, or after it."""
    made: list[Worker] = []
    may_settle = threading.Event()

    def make(_node: Any, of: Any, _statuses: Any, on_end: Any) -> Worker:
        node: Any = SimpleNamespace(name="node-a")
        statuses: Any = Statuses()
        statuses.wait_until_settled = lambda *_, **__: may_settle.wait()
        found = Scripted(node, of, statuses, on_end=on_end)
        found.rounds = iter(())
        made.append(found)
        return found

    monkeypatch.setattr(agents, "Worker", make)
    agent = any_agent(tmp_path)
    delegated = migration().model_copy(update={"status": DiskMigrationStatus(node_name="node-a")})
    over = delegated.model_copy(update={"status": DiskMigrationStatus(node_name="node-a", phase=Phase.SUCCEEDED)})
    agent.observe_migration(delegated)
    if not is_seen_first:
        may_settle.set()
        until(lambda: not made[0].is_alive())
        # An older event may still come, and must not start it again.
        agent.observe_migration(delegated)
    agent.observe_migration(over)
    may_settle.set()
    until(lambda: not agent._workers)
    assert len(made) == 1
