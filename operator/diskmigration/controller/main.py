"""The operator's entry point."""

import argparse
import asyncio
import logging
import socket
import sys
from pathlib import Path

from diskmigration.api import names
from diskmigration.cluster.client import Cluster, connect
from diskmigration.cluster.errors import ClusterError, ClusterUnavailableError, ObjectGoneError
from diskmigration.controller.controller import Controller, Options
from diskmigration.controller.watching import watch
from diskmigration.observability import logs

_log = logging.getLogger(__name__)

LOAD_RETRY_SECONDS = 2.0


def main() -> None:
    """Runs the operator until it is told to end. Exits with 1 where it cannot work, and says why."""
    arguments = _parser().parse_args()
    logs.set_up(level=arguments.log_level)
    options = Options(
        namespace=arguments.namespace,
        acceptance_grace_seconds=arguments.acceptance_grace_seconds,
        lease_stale_seconds=arguments.lease_stale_seconds,
        lease_poll_seconds=arguments.lease_poll_seconds,
    )
    try:
        cluster = connect(arguments.kubeconfig)
        asyncio.run(_run(cluster, options, liveness_port=arguments.liveness_port))
    except ClusterError as error:
        _log.error("the operator cannot work: %s", error)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diskmigration-operator", description="The operator of diskmigration.dev.")
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        help="credentials for the Kubernetes API; by default those of the pod, else $KUBECONFIG or ~/.kube/config",
    )
    parser.add_argument(
        "--namespace",
        default=names.SYSTEM_NAMESPACE,
        help="the operator's own namespace, where the agents' Leases are (default: %(default)s)",
    )
    parser.add_argument(
        "--acceptance-grace-seconds",
        type=_positive,
        default=Options.acceptance_grace_seconds,
        help="how long a migration may be refused for a reason that may mend itself before it fails "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--lease-stale-seconds",
        type=_positive,
        default=Options.lease_stale_seconds,
        help="an agent that does not renew its Lease for so long is not given work (default: %(default)s)",
    )
    parser.add_argument(
        "--lease-poll-seconds",
        type=_positive,
        default=Options.lease_poll_seconds,
        help="how often the agents' Leases are read (default: %(default)s)",
    )
    parser.add_argument(
        "--liveness-port",
        type=int,
        default=8080,
        help="serves /healthz for the kubelet; 0 for none (default: %(default)s)",
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


async def _run(cluster: Cluster, options: Options, *, liveness_port: int) -> None:
    controller = Controller(cluster, options, instance=socket.gethostname())
    await _load(controller)
    work = asyncio.create_task(controller.run(), name="controller")
    # kopf ends the tasks that begin after its own: the controller's must be there before.
    await asyncio.sleep(0)
    watching = asyncio.create_task(watch(cluster, controller, liveness_port=liveness_port), name="watch")
    ended, rest = await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in ended:
        task.result()


async def _load(controller: Controller) -> None:
    """Waits for an API server that does not answer yet; kinds that it does not know are the installer's to mend."""
    while True:
        try:
            await controller.load()
        except ObjectGoneError as error:
            raise ClusterUnavailableError(f"{error}. Are the CRDs of {names.GROUP} installed?") from error
        except ClusterUnavailableError as error:
            _log.warning("waiting for the Kubernetes API", extra={"error": str(error)})
            await asyncio.sleep(LOAD_RETRY_SECONDS)
        else:
            return
