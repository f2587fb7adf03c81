"""kopf's part: it watches two kinds and hands what it sees to whoever runs the node's migrations."""

import asyncio
import dataclasses
import logging
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar

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
RELIST_SECONDS = 600.0
"""Deletions are seldom missed, and a thousand agents ask."""

FIRST_RELIST_SECONDS = 10.0
"""Longer than kopf takes for its own list, after which it tells of deletions itself."""

_BEAT_SECONDS = 1.0
_LATE_SECONDS = 60.0
"""An event loop that did not turn for so long hangs."""


_T = TypeVar("_T")


class Audience(Protocol):
    """Whom the events are for. It is called in threads, one call at a time for each object."""

    def start(self) -> None:
        """Begin with what needs no API server."""

    def observe_cluster(self, domains: list[StorageDomain], node_labels: Mapping[str, str]) -> None:
        """Take in all storage domains that there are and the labels of the node, before all other calls but `start`."""

    def observe_storage_domain(self, domain: StorageDomain) -> None:
        """A storage domain is new or has changed."""

    def forget_storage_domain(self, name: str, uid: str) -> None:
        """A storage domain was deleted. Another one may have its name by now."""

    def storage_domains(self) -> Mapping[str, str]:
        """Return the uid of each storage domain that was seen and not forgotten, by its name."""

    def migrations(self) -> Mapping[str, tuple[str, str]]:
        """Return the namespace and name of each migration that was seen and not forgotten, by its uid."""

    def observe_migration(self, migration: DiskMigration) -> None:
        """A migration of this node is new or has changed."""

    def forget_migration(self, uid: str) -> None:
        """A migration of this node was deleted."""


async def watch(cluster: Cluster, audience: Audience, *, node_name: str, health: Health) -> NoReturn:
    """Start the audience, and feed it until this is cancelled. A watch that breaks is begun again, the audience is not.

    No answer of the API server ends it, as guests on thin volumes need the audience for as long as they run.
    """
    beating = asyncio.create_task(_beat(health), name="beat")
    try:
        audience.start()
        labels = await _answered("the node's labels", partial(cluster.get_node, node_name, may_be_older=True))
        listed = await _answered("the storage domains", partial(cluster.list, STORAGE_DOMAINS))
        domains = [domain for item in listed if (domain := _read_domain(item)) is not None]
        audience.observe_cluster(domains, labels[1] if labels is not None else {})
        await watching.keep_watching(partial(_watch_once, cluster, audience, node_name))
    finally:
        beating.cancel()


async def _watch_once(cluster: Cluster, audience: Audience, node_name: str) -> None:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**dataclasses.asdict(cluster.credentials()))

    _wire_events(registry, audience)
    # kopf ends the tasks that begin after its own.
    relisting = asyncio.create_task(_relist_now_and_then(cluster, audience, node_name), name="relist")
    await asyncio.sleep(0)
    try:
        await watching.watch(registry, _settings(node_name), plurals={STORAGE_DOMAINS, DISK_MIGRATIONS})
    finally:
        relisting.cancel()


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


def _wire_events(registry: kopf.OperatorRegistry, audience: Audience) -> None:
    """Register two kinds of event with kopf. No handler here ever waits."""

    @kopf.on.event(GROUP, VERSION, STORAGE_DOMAINS, registry=registry)
    async def observe_storage_domain(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            metadata = body["metadata"]
            await asyncio.to_thread(audience.forget_storage_domain, metadata["name"], metadata["uid"])
            return
        if (domain := _read_domain(body)) is not None:
            await asyncio.to_thread(audience.observe_storage_domain, domain)

    @kopf.on.event(GROUP, VERSION, DISK_MIGRATIONS, registry=registry)
    async def observe_migration(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            await asyncio.to_thread(audience.forget_migration, body["metadata"]["uid"])
            return
        try:
            await asyncio.to_thread(audience.observe_migration, _read_migration(body))
        except ValidationError as error:
            _log.error("a DiskMigration cannot be read", extra={"name": body["metadata"]["name"], "error": str(error)})


async def _beat(health: Health) -> None:
    while True:
        health.turned("the event loop", within_seconds=_LATE_SECONDS)
        await asyncio.sleep(_BEAT_SECONDS)


async def _relist_now_and_then(cluster: Cluster, audience: Audience, node_name: str) -> None:
    delay = FIRST_RELIST_SECONDS
    while True:
        await asyncio.sleep(delay * random.uniform(0.9, 1.1))  # noqa: S311 - the agents are spread by it
        delay = FIRST_RELIST_SECONDS
        try:
            await asyncio.to_thread(relist, cluster, audience, node_name)
        except ClusterError as error:
            _log.warning("deletions were not looked for", extra={"error": str(error)})
        except Exception:  # noqa: BLE001 - the next turn is another chance
            _log.exception("deletions were not looked for")
        else:
            delay = RELIST_SECONDS


def relist(cluster: Cluster, audience: Audience, node_name: str) -> None:
    """Tell the audience of what was deleted while nothing was watched: kopf lists again then, and tells of no deletion.

    Raises:
        ClusterError: the API server does not answer.
    """
    seen = audience.storage_domains()
    listed = cluster.list(STORAGE_DOMAINS)
    for name, uid in seen.items() - {(body["metadata"]["name"], body["metadata"]["uid"]) for body in listed}:
        # It may be younger than the list: only its own absence counts. The agent may list, and get none by its name.
        found = cluster.list(STORAGE_DOMAINS, field_selector=f"metadata.name={name}")
        if uid not in {body["metadata"]["uid"] for body in found}:
            audience.forget_storage_domain(name, uid)
    known = audience.migrations()
    listed = cluster.list(DISK_MIGRATIONS, field_selector=f"status.nodeName={node_name}")
    for uid in known.keys() - {body["metadata"]["uid"] for body in listed}:
        namespace, name = known[uid]
        found = cluster.list(DISK_MIGRATIONS, namespace=namespace, field_selector=f"metadata.name={name}")
        if uid not in {body["metadata"]["uid"] for body in found}:
            audience.forget_migration(uid)


async def _answered(what: str, ask: Callable[[], _T]) -> _T:
    """Return what the API server answers; waits for as long as it does not."""
    while True:
        try:
            return await asyncio.to_thread(ask)
        except ClusterError as error:
            _log.warning("the API server cannot be asked yet", extra={"for": what, "error": str(error)})
        except Exception:  # noqa: BLE001 - whatever was answered, the audience goes on
            _log.exception("the API server gave an answer that cannot be read", extra={"for": what})
        await asyncio.sleep(_FIRST_ANSWER_RETRY_SECONDS)


def _read_migration(body: Mapping[str, Any]) -> DiskMigration:
    """Raise ValidationError if its spec cannot be read; of its status, what cannot be read is the agent's to mend."""
    plain = dict(body)
    status = read_status(plain.pop("status", None) or {})
    return DiskMigration.from_wire(plain).model_copy(update={"status": status})


def _read_domain(body: Mapping[str, Any]) -> StorageDomain | None:
    try:
        return StorageDomain.from_wire(dict(body))
    except ValidationError as error:
        _log.error("a StorageDomain cannot be read", extra={"name": body["metadata"]["name"], "error": str(error)})
        return None
