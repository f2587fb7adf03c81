"""The agent's program: kopf watches the API server, and hands what it sees to the service."""

import argparse
import asyncio
import dataclasses
import fcntl
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import kopf
from pydantic import ValidationError

from diskmigration.agent.service import Agent
from diskmigration.api.disk_migration import DiskMigration
from diskmigration.api.names import DISK_MIGRATIONS, GROUP, STORAGE_DOMAINS, SYSTEM_NAMESPACE, VERSION
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.cluster import client
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError
from diskmigration.observability import logs

_log = logging.getLogger(__name__)

_FIRST_LIST_RETRY_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the agent of one node until it is told to end (SIGTERM, SIGINT)."""
    options = _parse(arguments)
    logs.set_up(level=options.log_level)
    lock = _lock_host(options.lock_file)
    cluster = client.connect(options.kubeconfig)
    agent = Agent(
        cluster=cluster,
        libvirt_uri=options.libvirt_uri,
        node_name=options.node_name,
        namespace=options.namespace,
        agent_version=_own_version(),
    )
    registry = kopf.OperatorRegistry()
    _wire(registry, agent, cluster, options)
    try:
        kopf.run(
            registry=registry,
            clusterwide=True,
            standalone=True,
            liveness_endpoint=f"http://0.0.0.0:{options.health_port}/healthz" if options.health_port else None,
        )
    finally:
        agent.stop()
        lock.close()


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
    parser.add_argument("--health-port", type=int, default=8080, help="port of the liveness endpoint; 0: none")
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


def _wire(registry: kopf.OperatorRegistry, agent: Agent, cluster: Cluster, options: argparse.Namespace) -> None:
    """Registers the credentials, the settings and two kinds of event with kopf. No handler here ever waits."""

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**dataclasses.asdict(cluster.credentials()))

    @kopf.on.startup(registry=registry)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.watching.field_selectors[f"{GROUP}", DISK_MIGRATIONS] = f"status.nodeName={options.node_name}"
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.watching.server_timeout = 10 * 60
        settings.watching.connect_timeout = 10
        settings.networking.request_timeout = 30
        settings.networking.connect_timeout = 10
        agent.start(await _first_domains(cluster))

    @kopf.on.event(GROUP, VERSION, STORAGE_DOMAINS, registry=registry)
    async def see_storage_domain(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            await asyncio.to_thread(agent.forget_storage_domain, body["metadata"]["name"])
            return
        try:
            await asyncio.to_thread(agent.see_storage_domain, StorageDomain.from_wire(dict(body)))
        except ValidationError as error:
            _log.error("a StorageDomain cannot be read", extra={"name": body["metadata"]["name"], "error": str(error)})

    @kopf.on.event(GROUP, VERSION, DISK_MIGRATIONS, registry=registry)
    async def see_migration(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's own name
        if type == "DELETED":
            await asyncio.to_thread(agent.forget_migration, body["metadata"]["uid"])
            return
        try:
            await asyncio.to_thread(agent.see_migration, DiskMigration.from_wire(dict(body)))
        except ValidationError as error:
            _log.error("a DiskMigration cannot be read", extra={"name": body["metadata"]["name"], "error": str(error)})


async def _first_domains(cluster: Cluster) -> list[StorageDomain]:
    """The storage domains that there are now; waits for as long as the API server does not answer."""
    while True:
        try:
            found = await asyncio.to_thread(cluster.list, STORAGE_DOMAINS)
        except ClusterError as error:
            _log.warning("the storage domains cannot be listed yet", extra={"error": str(error)})
            await asyncio.sleep(_FIRST_LIST_RETRY_SECONDS)
        else:
            return [StorageDomain.from_wire(item) for item in found]
