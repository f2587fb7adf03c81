"""kopf's part: it watches two kinds and hands what it sees to whoever runs the node's migrations."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

import kopf
from pydantic import ValidationError

from diskmigration.api.disk_migration import DiskMigration, read_status
from diskmigration.api.names import DISK_MIGRATIONS, GROUP, STORAGE_DOMAINS, VERSION
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.cluster import watching
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError
from diskmigration.cluster.retrying import ForEver
from diskmigration.observability.health import Health

_log = logging.getLogger(__name__)

_FIRST_ANSWER_RETRY_SECONDS = 1.0
_BEAT_SECONDS = 1.0
_LATE_SECONDS = 60.0
"""An event loop that did not turn for so long hangs."""


_T = TypeVar("_T")


class Audience(Protocol):
    """Whom the events are for. It is called in threads, one call at a time for each object."""

    def start(self, domains: list[StorageDomain], node_labels: Mapping[str, str]) -> None:
        """Comes first, with the storage domains that there are and the labels of the node."""

    def see_storage_domain(self, domain: StorageDomain) -> None:
        """A storage domain is new or has changed."""

    def forget_storage_domain(self, name: str) -> None:
        """A storage domain was deleted."""

    def see_migration(self, migration: DiskMigration) -> None:
        """A migration of this node is new or has changed."""

    def forget_migration(self, uid: str) -> None:
        """A migration of this node was deleted."""


async def watch(cluster: Cluster, audience: Audience, *, node_name: str, health: Health) -> None:
    """Feeds the audience until the process is told to end.

    Raises:
        Exception: as `diskmigration.cluster.watching.watch`.
    """
    registry = kopf.OperatorRegistry()
    _wire_life(registry, audience, cluster, health, node_name=node_name)
    _wire_events(registry, audience)
    await watching.watch(registry, _settings(node_name))


def _settings(node_name: str) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.watching.field_selectors[GROUP, DISK_MIGRATIONS] = f"status.nodeName={node_name}"
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # The server ends a watch after this, so that a balancer that forgot the connection costs no more than that.
    settings.watching.server_timeout = 10 * 60
    # In case the server's end of the watch does not arrive either.
    settings.watching.client_timeout = 10 * 60 + 30
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    # The jobs go on without the API server for as long as it takes, and so does the audience.
    settings.networking.error_backoffs = ForEver()
    return settings


def _wire_life(
    registry: kopf.OperatorRegistry, audience: Audience, cluster: Cluster, health: Health, *, node_name: str
) -> None:
    """Registers the credentials, the start and the end with kopf."""
    beating: list[asyncio.Task[None]] = []

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**dataclasses.asdict(cluster.credentials()))

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        beating.append(asyncio.create_task(_beat(health), name="beat"))
        labels = await _answered("the node's labels", partial(cluster.get_node, node_name, may_be_older=True))
        listed = await _answered("the storage domains", partial(cluster.list, STORAGE_DOMAINS))
        domains = [domain for item in listed if (domain := _read_domain(item)) is not None]
        audience.start(domains, labels[1] if labels is not None else {})

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        for task in beating:
            task.cancel()


def _wire_events(registry: kopf.OperatorRegistry, audience: Audience) -> None:
    """Registers two kinds of event with kopf. No handler here ever waits."""

    @kopf.on.event(GROUP, VERSION, STORAGE_DOMAINS, registry=registry)
    async def see_storage_domain(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            await asyncio.to_thread(audience.forget_storage_domain, body["metadata"]["name"])
            return
        if (domain := _read_domain(body)) is not None:
            await asyncio.to_thread(audience.see_storage_domain, domain)

    @kopf.on.event(GROUP, VERSION, DISK_MIGRATIONS, registry=registry)
    async def see_migration(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            await asyncio.to_thread(audience.forget_migration, body["metadata"]["uid"])
            return
        try:
            await asyncio.to_thread(audience.see_migration, _read_migration(body))
        except ValidationError as error:
            _log.error("a DiskMigration cannot be read", extra={"name": body["metadata"]["name"], "error": str(error)})


async def _beat(health: Health) -> None:
    while True:
        health.turned("the event loop", within_seconds=_LATE_SECONDS)
        await asyncio.sleep(_BEAT_SECONDS)


async def _answered(what: str, ask: Callable[[], _T]) -> _T:
    """What the API server answers; waits for as long as it does not."""
    while True:
        try:
            return await asyncio.to_thread(ask)
        except ClusterError as error:
            _log.warning("the API server cannot be asked yet", extra={"for": what, "error": str(error)})
            await asyncio.sleep(_FIRST_ANSWER_RETRY_SECONDS)


def _read_migration(body: Mapping[str, Any]) -> DiskMigration:
    """Raises ValidationError if its spec cannot be read; of its status, what cannot be read is the agent's to mend."""
    plain = dict(body)
    status = read_status(plain.pop("status", None) or {})
    return DiskMigration.from_wire(plain).model_copy(update={"status": status})


def _read_domain(body: Mapping[str, Any]) -> StorageDomain | None:
    try:
        return StorageDomain.from_wire(dict(body))
    except ValidationError as error:
        _log.error("a StorageDomain cannot be read", extra={"name": body["metadata"]["name"], "error": str(error)})
        return None
