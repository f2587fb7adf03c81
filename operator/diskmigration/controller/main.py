"""The operator's entry point."""

import argparse
import asyncio
import logging
import os
import socket
import sys
import uuid
from pathlib import Path

from diskmigration.api import names
from diskmigration.cluster import schemas
from diskmigration.cluster.client import Cluster, connect
from diskmigration.cluster.errors import ClusterError, ClusterUnavailableError, ObjectGoneError
from diskmigration.cluster.leadership import Leadership, Terms
from diskmigration.cluster.running import run_until_told
from diskmigration.controller import metrics
from diskmigration.controller.controller import KUBERNETES_API, Controller, Options
from diskmigration.controller.watching import watch
from diskmigration.observability import endpoint, logs
from diskmigration.observability.health import Health

_log = logging.getLogger(__name__)

LOAD_RETRY_SECONDS = 2.0
BEAT_SECONDS = 1.0
LATE_SECONDS = 60.0
"""An event loop that did not turn for so long hangs."""


_BOOKS = "the state"


def main() -> None:
    """Runs the operator until it is told to end. The process ends with 1 where it cannot work, and says why."""
    arguments = _parser().parse_args()
    logs.set_up(level=arguments.log_level)
    options = Options(
        namespace=arguments.namespace,
        acceptance_grace_seconds=arguments.acceptance_grace_seconds,
        lease_stale_seconds=arguments.lease_stale_seconds,
        lease_poll_seconds=arguments.lease_poll_seconds,
        relist_seconds=arguments.relist_seconds,
    )
    health = Health(KUBERNETES_API)
    status = 0
    try:
        cluster = connect(arguments.kubeconfig)
        if arguments.http_port:
            endpoint.serve(arguments.http_port, health)
        schemas.start_comparing(cluster, health)
        leadership = _leadership(cluster, health, arguments) if arguments.leader_elect else None
        run_until_told(lambda: _run(cluster, options, health, leadership))
    except ClusterError as error:
        _log.error("the operator cannot work: %s", error)
        status = 1
    except Exception:  # noqa: BLE001 - the process ends, whatever it is
        _log.critical("the operator ends, to be started anew", exc_info=True)
        status = 1
    logging.shutdown()
    # Neither asyncio.run nor sys.exit, which wait for tasks and threads that may hang.
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diskmigration-operator", description="The operator of diskmigration.dev.")
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        help="credentials for the Kubernetes API; by default those of the pod, else $KUBECONFIG or ~/.kube/config",
    )
    parser.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", names.SYSTEM_NAMESPACE),
        help="the namespace of the operator and the agents, where their Leases are ($POD_NAMESPACE, else "
        f"{names.SYSTEM_NAMESPACE})",
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
        "--relist-seconds",
        type=_positive,
        default=Options.relist_seconds,
        help="how often all objects are listed, in case a watch has missed one; seldom where that takes long "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"work only while holding the Lease {names.LEADER_LEASE}, so that several may run (default: %(default)s)",
    )
    for option, seconds, told in (
        ("duration", Terms.duration_seconds, "another operator takes over when the leader has not renewed for so long"),
        ("renew-deadline", Terms.renew_deadline_seconds, "a leader that could not renew for so long ends"),
        ("retry", Terms.retry_seconds, "how often the leader renews, and the others look"),
    ):
        parser.add_argument(
            f"--leader-{option}-seconds", type=_positive, default=seconds, help=f"{told} (default: %(default)s)"
        )
    parser.add_argument(
        "--http-port",
        type=int,
        default=8080,
        help="serves /livez, /readyz and /metrics; 0 for none (default: %(default)s)",
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _leadership(cluster: Cluster, health: Health, arguments: argparse.Namespace) -> Leadership:
    try:
        terms = Terms(
            duration_seconds=arguments.leader_duration_seconds,
            renew_deadline_seconds=arguments.leader_renew_deadline_seconds,
            retry_seconds=arguments.leader_retry_seconds,
        )
    except ValueError as error:
        sys.exit(f"The options --leader-… do not fit together. {error}")
    # A pod that is started again keeps its name, and must not take itself for the one before.
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    return Leadership(
        cluster,
        namespace=arguments.namespace,
        name=names.LEADER_LEASE,
        identity=identity,
        terms=terms,
        on_turn=lambda: health.turned("the thread that renews the leader's Lease", within_seconds=LATE_SECONDS),
    )


async def _run(cluster: Cluster, options: Options, health: Health, leadership: Leadership | None) -> None:
    """Waits for its turn to lead, and leads until the process is told to end or one of its parts fails."""
    beating = asyncio.create_task(_beat(health), name="beat")
    try:
        if leadership is not None:
            await _win(leadership, health)
            leadership.keep()
            cluster = cluster.fenced(leadership.holds)
        await _lead(cluster, options, health)
    except asyncio.CancelledError:
        _log.info("told to end")
    finally:
        beating.cancel()
        if leadership is not None:
            await asyncio.to_thread(leadership.release)


async def _win(leadership: Leadership, health: Health) -> None:
    _log.info("standing by", extra={"identity": leadership.identity})
    metrics.LEADER.set(0)
    while True:
        try:
            is_leader = await asyncio.to_thread(leadership.attempt)
        except ClusterError as error:
            health.fails(KUBERNETES_API, str(error))
            _log.warning("the leader's Lease cannot be looked at", extra={"error": str(error)})
        else:
            health.answers(KUBERNETES_API)
            if is_leader:
                _log.info("leading", extra={"identity": leadership.identity})
                metrics.LEADER.set(1)
                return
        await asyncio.sleep(leadership.terms.retry_seconds)


async def _lead(cluster: Cluster, options: Options, health: Health) -> None:
    controller = Controller(cluster, options, instance=socket.gethostname(), health=health)
    metrics.describe(controller.state.migrations, controller.state.scheduler, controller.state.inventory)
    health.check(controller.why_stuck)
    health.lacks(_BOOKS, "the operator leads, and has not read everything yet")
    await _load(controller)
    health.answers(_BOOKS)
    work = asyncio.create_task(controller.run(), name="controller")
    # kopf ends the tasks that begin after its own: the controller's must be there before.
    await asyncio.sleep(0)
    watching = asyncio.create_task(watch(cluster, controller), name="watch")
    try:
        ended, _ = await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, watching):
            task.cancel()
        await asyncio.gather(work, watching, return_exceptions=True)
        # What was being written must have been written before another may lead.
        await asyncio.to_thread(controller.close)
    for task in ended:
        task.result()


async def _beat(health: Health) -> None:
    while True:
        health.turned("the event loop", within_seconds=LATE_SECONDS)
        await asyncio.sleep(BEAT_SECONDS)


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
