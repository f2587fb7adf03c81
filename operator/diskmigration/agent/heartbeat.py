"""Renew the Lease that tells the cluster that this node's agent lives.

It has a thread of its own, so that a libvirtd that hangs does not make the node look dead.
"""

import logging
import threading
import time

from diskmigration.agent import metrics
from diskmigration.api.names import AGENT_FIELD_MANAGER
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError
from diskmigration.cluster.leases import renew_lease
from diskmigration.observability.health import Health
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

LEASE_RENEW_SECONDS = 5.0
LEASE_DURATION_SECONDS = 20

LATE_SECONDS = 120.0
"""No request takes so long: the thread that renews the Lease hangs when it has not turned since."""

KUBERNETES_API = "the Kubernetes API"
"""The name under which the probes show whether a renewal succeeds."""


class Heartbeat:
    """Renew the node's Lease in a thread of its own."""

    def __init__(self, *, cluster: Cluster, node_name: str, namespace: str, health: Health) -> None:
        self._cluster = cluster
        self._node_name = node_name
        self._namespace = namespace
        self._health = health

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def _renew(self) -> None:
        while True:
            self._health.turned("the thread that renews the Lease", within_seconds=LATE_SECONDS)
            with surviving("the Lease"):
                self._renew_once()
                time.sleep(LEASE_RENEW_SECONDS)

    def _renew_once(self) -> None:
        try:
            renew_lease(
                self._cluster,
                self._namespace,
                self._node_name,
                holder=AGENT_FIELD_MANAGER,
                duration_seconds=LEASE_DURATION_SECONDS,
            )
        except ClusterError as error:
            metrics.LEASE_RENEWAL_FAILURES.inc()
            self._health.fails(KUBERNETES_API, str(error))
            _log.warning("the Lease was not renewed", extra={"error": str(error)})
        else:
            self._health.answers(KUBERNETES_API)
