"""The agent's program: kopf watches the API server, and hands what it sees to the service."""

import argparse
import asyncio
import dataclasses
import fcntl
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import kopf
from pydantic import ValidationError

from diskmigration.agent.announcer import KUBERNETES_API
from diskmigration.agent.pulse import LIBVIRT
from diskmigration.agent.service import Agent
from diskmigration.api.disk_migration import DiskMigration, read_status
from diskmigration.api.names import DISK_MIGRATIONS, GROUP, STORAGE_DOMAINS, SYSTEM_NAMESPACE, VERSION
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.cluster import client, watching
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError
from diskmigration.cluster.retrying import ForEver
from diskmigration.observability import endpoint, logs
from diskmigration.observability.health import Health

_log = logging.getLogger(__name__)

_FIRST_LIST_RETRY_SECONDS = 1.0
_BEAT_SECONDS = 1.0
_LATE_SECONDS = 60.0
"""An event loop that did not turn for so long hangs."""

END_SECONDS = 20.0
"""With the few that kopf takes, less than a pod is given to end (terminationGracePeriodSeconds: 30)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the agent of one node until it is told to end (SIGTERM, SIGINT): then the process ends with 0.

    It ends with 1 when it cannot watch the API server any more, so that the kubelet starts it anew.
    """
    options = _parse(arguments)
    logs.set_up(level=options.log_level)
    lock = _lock_host(options.lock_file)
    cluster = client.connect(options.kubeconfig)
    health = Health(KUBERNETES_API, LIBVIRT)
    if options.http_port:
        endpoint.serve(options.http_port, health)
    agent = Agent(
        cluster=cluster,
        libvirt_uri=options.libvirt_uri,
        node_name=options.node_name,
        namespace=options.namespace,
        agent_version=_own_version(),
        health=health,
    )
    registry = kopf.OperatorRegistry()
    _wire_life(registry, agent, cluster, health)
    _wire_events(registry, agent)
    status = _watch(registry, options.node_name)
    ending = threading.Thread(target=agent.stop, name="end", daemon=True)
    ending.start()
    ending.join(END_SECONDS)
    if ending.is_alive():
        _log.warning("the agent ends although something on the node hangs")
    lock.close()
    logging.shutdown()
    # Not sys.exit, which waits for every thread: one may wait for a libvirtd or a storage that never answers.
    os._exit(status)


def _watch(registry: kopf.OperatorRegistry, node_name: str) -> int:
    """Feeds the agent until the process is told to end; its exit status."""
    try:
        # Not asyncio.run, which waits for requests that are under way in threads.
        asyncio.new_event_loop().run_until_complete(watching.watch(registry, _settings(node_name)))
    except Exception:  # noqa: BLE001 - whatever kopf ends on, say credentials that are refused
        _log.critical("the API server cannot be watched any more: the agent ends, to be started anew", exc_info=True)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="diskmigration-agent", description=__doc__)
    parser.add_argument("--node-name", default=os.environ.get("NODE_NAME"), help="this node's name ($NODE_NAME)")
    parser.add_argument("--namespace", default=SYSTEM_NAMESPACE, help="the namespace of the agents' Leases")
    parser.add_argument("--kubeconfig", type=Path, help="credentials; by default those of the pod, or $KUBECONFIG")
    parser.add_argument("--libvirt-uri", default="qemu:///system", help="the node's libvirtd")
    parser.add_argument(
        "--lock-file",
        type=Path,
        default=Path("/run/libvirt/diskmigration-agent.lock"),
        help="held while the agent runs: one agent a node",
    )
    parser.add_argument("--http-port", type=int, default=8080, help="serves /livez, /readyz and /metrics; 0: none")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    options = parser.parse_args(arguments)
    if not options.node_name:
        parser.error("--node-name or $NODE_NAME must say which node this is")
    return options


def _own_version() -> str:
    try:
        return version("diskmigration")
    except PackageNotFoundError:
        return "unknown"


def _lock_host(path: Path) -> TextIO:
    """Takes the lock: two agents on a node would extend and pivot against each other."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"Another agent runs on this node: {path} is locked.")
    return file


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
    # The jobs go on without the API server for as long as it takes, and so does the agent.
    settings.networking.error_backoffs = ForEver()
    return settings


def _wire_life(registry: kopf.OperatorRegistry, agent: Agent, cluster: Cluster, health: Health) -> None:
    """Registers the credentials, the start and the end with kopf."""
    beating: list[asyncio.Task[None]] = []

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**dataclasses.asdict(cluster.credentials()))

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        beating.append(asyncio.create_task(_beat(health), name="beat"))
        agent.start(await _first_domains(cluster))

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        for task in beating:
            task.cancel()


def _wire_events(registry: kopf.OperatorRegistry, agent: Agent) -> None:
    """Registers two kinds of event with kopf. No handler here ever waits."""

    @kopf.on.event(GROUP, VERSION, STORAGE_DOMAINS, registry=registry)
    async def see_storage_domain(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            await asyncio.to_thread(agent.forget_storage_domain, body["metadata"]["name"])
            return
        if (domain := _read_domain(body)) is not None:
            await asyncio.to_thread(agent.see_storage_domain, domain)

    @kopf.on.event(GROUP, VERSION, DISK_MIGRATIONS, registry=registry)
    async def see_migration(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            await asyncio.to_thread(agent.forget_migration, body["metadata"]["uid"])
            return
        try:
            await asyncio.to_thread(agent.see_migration, _read_migration(body))
        except ValidationError as error:
            _log.error("a DiskMigration cannot be read", extra={"name": body["metadata"]["name"], "error": str(error)})


async def _beat(health: Health) -> None:
    while True:
        health.turned("the event loop", within_seconds=_LATE_SECONDS)
        await asyncio.sleep(_BEAT_SECONDS)


async def _first_domains(cluster: Cluster) -> list[StorageDomain]:
    """The storage domains that there are now; waits for as long as the API server does not answer."""
    while True:
        try:
            found = await asyncio.to_thread(cluster.list, STORAGE_DOMAINS)
        except ClusterError as error:
            _log.warning("the storage domains cannot be listed yet", extra={"error": str(error)})
            await asyncio.sleep(_FIRST_LIST_RETRY_SECONDS)
        else:
            return [domain for item in found if (domain := _read_domain(item)) is not None]


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
