"""The agent's program."""

import argparse
import fcntl
import logging
import os
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

from diskmigration.agent.agent import Agent
from diskmigration.agent.allocator import use_few_arenas
from diskmigration.agent.heartbeat import KUBERNETES_API
from diskmigration.agent.hypervisor.connection import sockets_of
from diskmigration.agent.node.probe import LIBVIRT
from diskmigration.agent.storage import openers, process_limit, qemu_img_process
from diskmigration.agent.watching import watch
from diskmigration.api.names import SYSTEM_NAMESPACE
from diskmigration.cluster import client, schemas
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.running import run_until_told
from diskmigration.observability import endpoint, logs
from diskmigration.observability.health import Health

_log = logging.getLogger(__name__)

END_SECONDS = 20.0
"""With the few that kopf takes, less than a pod is given to end (terminationGracePeriodSeconds: 30)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the agent of one node until it is told to end (SIGTERM, SIGINT): then the process ends with 0.

    It ends with 1 on a defect of its own, and for nothing that the API server answers.
    """
    options = _parse(arguments)
    use_few_arenas()
    logs.set_up(level=options.log_level)
    lock = _lock_host(options.lock_file)
    cluster = client.connect(options.kubeconfig)
    openers.rely_on_sockets(sockets_of(options.libvirt_uri))
    health = Health(KUBERNETES_API, LIBVIRT)
    if options.http_port:
        endpoint.serve(options.http_port, health)
    schemas.start_comparing(cluster, health)
    qemu_img_process.limit_processes(options.qemu_img_processes)
    agent = Agent(
        cluster=cluster,
        libvirt_uri=options.libvirt_uri,
        node_name=options.node_name,
        namespace=options.namespace,
        agent_version=_own_version(),
        health=health,
        state_directory=options.state_directory,
    )
    status = _watch(cluster, agent, options.node_name, health)
    ending = threading.Thread(target=agent.stop, name="end", daemon=True)
    ending.start()
    ending.join(END_SECONDS)
    if ending.is_alive():
        _log.warning("the agent ends although something on the node hangs")
    lock.close()
    logging.shutdown()
    # Not sys.exit, which waits for every thread: one may wait for a libvirtd or a storage that never answers.
    os._exit(status)


def _watch(cluster: Cluster, agent: Agent, node_name: str, health: Health) -> int:
    """Feeds the agent until the process is told to end; its exit status."""
    try:
        run_until_told(lambda: watch(cluster, agent, node_name=node_name, health=health))
    except Exception:  # noqa: BLE001 - the process ends, whatever it is
        _log.critical("the agent ends, to be started again", exc_info=True)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="diskmigration-agent", description=__doc__)
    parser.add_argument("--node-name", default=os.environ.get("NODE_NAME"), help="this node's name ($NODE_NAME)")
    parser.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", SYSTEM_NAMESPACE),
        help="the namespace of the operator and the agents, where their Leases are ($POD_NAMESPACE, else "
        f"{SYSTEM_NAMESPACE})",
    )
    parser.add_argument("--kubeconfig", type=Path, help="credentials; by default those of the pod, or $KUBECONFIG")
    parser.add_argument("--libvirt-uri", default="qemu:///system", help="the node's libvirtd")
    parser.add_argument(
        "--lock-file",
        type=Path,
        default=Path("/run/libvirt/diskmigration-agent.lock"),
        help="held while the agent runs: one agent a node",
    )
    parser.add_argument(
        "--state-directory",
        type=Path,
        default=Path("/var/lib/diskmigration-agent"),
        help="the agent keeps here what it must know to start while the API server is away; root's alone",
    )
    parser.add_argument("--http-port", type=int, default=8080, help="serves /livez, /readyz and /metrics; 0: none")
    parser.add_argument(
        "--qemu-img-processes",
        type=_process_limit,
        default=process_limit.DEFAULT_LIMIT,
        metavar="NUMBER",
        help=f"how many qemu-img processes run at once, at least {process_limit.LOWEST_LIMIT}; each takes some 50 MB, "
        f"and more when it copies; by default {process_limit.DEFAULT_LIMIT}",
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    options = parser.parse_args(arguments)
    if not options.node_name:
        parser.error("--node-name or $NODE_NAME must say which node this is")
    return options


def _process_limit(text: str) -> int:
    """Read a number of processes.

    Raises:
        ValueError: it is too low, or none.
    """
    limit = int(text)
    if limit < process_limit.LOWEST_LIMIT:
        raise ValueError(text)
    return limit


def _own_version() -> str:
    try:
        return version("diskmigration")
    except PackageNotFoundError:
        return "unknown"


def _lock_host(path: Path) -> TextIO:
    """Take the lock: two agents on a node would extend and pivot against each other."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"Another agent runs on this node: {path} is locked.")
    return file
