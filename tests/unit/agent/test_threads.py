"""No thread of the agent ends by an exception: each is given one in its turn, and has to take another turn."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.extender.extender import Extender
from diskmigration.agent.heartbeat import Heartbeat
from diskmigration.agent.host_publisher import HostPublisher
from diskmigration.agent.hypervisor import connection as connections
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.events import DomainEvent, Events
from diskmigration.agent.migration import orphans
from diskmigration.agent.migration.orphans import Orphans
from diskmigration.agent.node import cache
from diskmigration.agent.node.cache import NodeCache
from diskmigration.agent.references import usage
from diskmigration.agent.references.usage import UsageReader
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.api.disk_migration import DiskMigrationStatus, Phase
from diskmigration.cluster.events import Event, Reporter, record_event
from diskmigration.observability import loops
from tests.unit.agent.builders import migration
from tests.unit.agent.waiting import PATIENCE_SECONDS

ERRORS = [RuntimeError("can't start new thread"), OSError(116, "Stale file handle"), UnicodeError("no UTF-8")]


class Flaky:
    """Raises on its first call; tells of the second, and holds that thread for good, so that it calls no more."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._calls = 0
        self.is_called = threading.Event()
        self.is_called_again = threading.Event()

    def __call__(self, *_: Any, **__: Any) -> Any:
        self._calls += 1
        self.is_called.set()
        if self._calls == 1:
            raise self._error
        self.is_called_again.set()
        threading.Event().wait()


Start = Callable[[Flaky, pytest.MonkeyPatch], None]


def nothing(*_: Any, **__: Any) -> None:
    """Takes everything."""


def any_health(**changes: Any) -> Any:
    return SimpleNamespace(**{"turned": nothing, "answers": nothing, "fails": nothing, "check": nothing, **changes})


def polls_that_the_extender_takes(flaky: Flaky, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Extender, "_look_after_all", flaky)
    connection: Any = SimpleNamespace(on_open=nothing)
    found = Extender(connection, Events(connection), StorageDomains({}), any_health(), describe=nothing)
    found.start()
    # Two at once would be looked after in one turn.
    found.take_poll((), 0.0)
    assert flaky.is_called.wait(PATIENCE_SECONDS)
    found.take_poll((), 0.0)


def status_writer(flaky: Flaky, _patch: pytest.MonkeyPatch) -> None:
    cluster: Any = SimpleNamespace(apply_status=flaky)
    writer = StatusWriter(cluster, node_name="node-a", on_gone=nothing, on_turn=nothing)
    for uid in ("a", "b"):
        writer.show(migration(uid=uid), DiskMigrationStatus(phase=Phase.SCHEDULED))
    writer.start()


def turn_of_the_status_writer(flaky: Flaky, _patch: pytest.MonkeyPatch) -> None:
    cluster: Any = None
    StatusWriter(cluster, node_name="node-a", on_gone=nothing, on_turn=flaky).start()


def lease(flaky: Flaky, _patch: pytest.MonkeyPatch) -> None:
    api: Any = SimpleNamespace(apply=flaky)
    Heartbeat(cluster=api, node_name="node-a", namespace="system", health=any_health()).start()


def survey(flaky: Flaky, _patch: pytest.MonkeyPatch) -> None:
    api: Any = SimpleNamespace(apply=nothing, get_node=nothing)
    publisher = HostPublisher(cluster=api, survey=flaky, on_labels=nothing, node_name="node-a", health=any_health())
    publisher.publish_soon()
    publisher.start()


def search_for_orphans(flaky: Flaky, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(orphans, "journals_by_vm", flaky)
    anything: Any = None
    Orphans(
        node_name="node-a",
        connection=anything,
        domains=StorageDomains({}),
        remover=anything,
        migrations_at_work=frozenset,
    ).start()


def look_at_what_volumes_are_needed(flaky: Flaky, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(usage, "users_on_node", flaky)
    patch.setattr(usage, "SOONEST_SECONDS", 0.0)
    anything: Any = None
    reader = UsageReader(anything, StorageDomains({}))
    reader.look_soon()
    reader.start()


def turn_of_the_node_cache(flaky: Flaky, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NodeCache, "_turn", flaky)
    patch.setattr(cache, "TURN_SECONDS", 0.0)
    NodeCache("test:///default", any_health(), Path("/nonexistent")).start()


def connection_that_is_kept_open(flaky: Flaky, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connections, "KEEP_SECONDS", 0.0)
    found = Connection("test:///default")
    patch.setattr(found, "get", flaky)
    found.keep_open()


THREADS = [
    look_at_what_volumes_are_needed,
    polls_that_the_extender_takes,
    status_writer,
    turn_of_the_status_writer,
    lease,
    survey,
    search_for_orphans,
    turn_of_the_node_cache,
    connection_that_is_kept_open,
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("start", THREADS, ids=lambda start: start.__name__)
def test_a_thread_takes_another_turn(start: Start, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "PAUSE_SECONDS", 0.0)
    flaky = Flaky(error)
    start(flaky, monkeypatch)
    assert flaky.is_called_again.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_listener_that_fails_keeps_no_other_from_hearing(error: Exception) -> None:
    def fail(_event: DomainEvent) -> None:
        raise error

    heard: list[DomainEvent] = []
    connection: Any = SimpleNamespace(on_open=nothing)
    events = Events(connection)
    events.listen(fail)
    events.listen(heard.append)
    events._emit(DomainEvent("uuid"))
    assert heard == [DomainEvent("uuid")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_who_tells_of_something_goes_on_whatever_comes_of_it(error: Exception) -> None:
    cluster: Any = SimpleNamespace(create=Flaky(error))
    reporter, about = Reporter("agent", "node-a"), migration().metadata
    failed = Event("diskmigrations", about, reason="Failed", note="It failed.", action="Migrate")
    record_event(cluster, reporter, failed)
