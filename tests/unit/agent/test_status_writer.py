"""The thread that writes statuses: what is newest is written, and its own echoes are no edits."""

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.status_writer import StatusWriter
from diskmigration.api.disk_migration import DiskMigration, DiskMigrationStatus, Phase
from tests.unit.agent.builders import migration
from tests.unit.agent.waiting import until


class Server:
    """Keeps what is written, and gives each write a resourceVersion."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.events: list[str] = []
        self._versions = itertools.count(100)

    def apply_status(self, _plural: str, _name: str, status: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.phases.append(status["phase"])
        return {"metadata": {"resourceVersion": str(next(self._versions))}}

    def create(self, _resource: Any, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.events.append(body["reason"])
        return body


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def writer(server: Server) -> Iterator[StatusWriter]:
    cluster: Any = server
    made = StatusWriter(cluster, node_name="node-a", on_gone=lambda _: None, on_turn=lambda: None)
    made.start()
    yield made
    made.forget("uid")


def as_seen(phase: Phase, version: str) -> DiskMigration:
    of = migration(uid="uid")
    metadata = of.metadata.model_copy(update={"resource_version": version})
    return of.model_copy(update={"metadata": metadata, "status": DiskMigrationStatus(phase=phase)})


def show(writer: StatusWriter, phase: Phase) -> None:
    writer.show(migration(uid="uid"), DiskMigrationStatus(phase=phase))
    assert writer.wait_until_settled("uid", timeout=30)


@pytest.mark.parametrize("version", ["1", "99", "100", "101"])
def test_what_is_no_newer_than_the_last_write_is_no_edit(writer: StatusWriter, server: Server, version: str) -> None:
    show(writer, Phase.SNAPSHOTTING)
    show(writer, Phase.REPLICATING)
    writer.compare(as_seen(Phase.SNAPSHOTTING, version))
    assert writer.is_settled("uid")
    assert server.phases == ["Snapshotting", "Replicating"]


def test_an_edit_is_written_over_and_told_of_no_second_time(writer: StatusWriter, server: Server) -> None:
    show(writer, Phase.SUCCEEDED)
    until(lambda: server.events == ["Succeeded"])
    writer.compare(as_seen(Phase.PENDING, "555"))
    assert writer.wait_until_settled("uid", timeout=30)
    assert server.phases == ["Succeeded", "Succeeded"]
    assert server.events == ["Succeeded"]


def test_phases_that_pass_at_once_are_few_writes(writer: StatusWriter, server: Server) -> None:
    for phase in (Phase.SNAPSHOTTING, Phase.COPYING_CHAIN, Phase.REPLICATING, Phase.PIVOTING, Phase.SUCCEEDED):
        writer.show(migration(uid="uid"), DiskMigrationStatus(phase=phase))
    assert writer.wait_until_settled("uid", timeout=30)
    assert server.phases[-1] == "Succeeded"
    assert len(server.phases) <= 3


def test_one_that_cannot_be_written_keeps_no_other_from_it(server: Server) -> None:
    def apply_status(_plural: str, name: str, status: dict[str, Any], **_: Any) -> dict[str, Any]:
        if name == "bad":
            raise RuntimeError(name)
        return server.apply_status("", name, status)

    cluster: Any = SimpleNamespace(apply_status=apply_status, create=server.create)
    made = StatusWriter(cluster, node_name="node-a", on_gone=lambda _: None, on_turn=lambda: None)
    bad = migration(uid="bad")
    made.show(
        bad.model_copy(update={"metadata": bad.metadata.model_copy(update={"name": "bad"})}),
        DiskMigrationStatus(phase=Phase.REPLICATING),
    )
    made.show(migration(uid="good"), DiskMigrationStatus(phase=Phase.REPLICATING))
    made.start()
    assert made.wait_until_settled("good", timeout=30)
    assert not made.is_settled("bad")
