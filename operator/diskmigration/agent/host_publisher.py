"""Publish what this node has, as a LibvirtHost."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from diskmigration import clock
from diskmigration.agent.inventory_pacing import FACTS_SECONDS, interval
from diskmigration.agent.node.probe import LIBVIRT
from diskmigration.api import conditions
from diskmigration.api.conditions import Condition
from diskmigration.api.errors import MigrationError
from diskmigration.api.libvirt_host import LibvirtHostStatus
from diskmigration.api.names import AGENT_FIELD_MANAGER, LIBVIRT_HOSTS
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError
from diskmigration.observability.health import Health
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0

SURVEY_LATE_SECONDS = 900.0
"""Commands that ask a storage which hangs are given up one after the other; to start again would not mend that."""

LABELS_SECONDS = 30.0
"""How long the Node's labels are taken for the same."""

_SKEW_STEP_SECONDS = 10


class HostPublisher:
    """Survey the node and write its LibvirtHost, in a thread of its own."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        survey: Callable[[], LibvirtHostStatus],
        on_labels: Callable[[Mapping[str, str]], None],
        node_name: str,
        health: Health,
    ) -> None:
        """`survey` raises MigrationError where the node cannot be surveyed; `on_labels` takes the Node's labels."""
        self._survey = survey
        self._on_labels = on_labels
        self._health = health
        self._cluster = cluster
        self._node_name = node_name
        self._wake = threading.Event()
        self._conditions: tuple[Condition, ...] = ()
        self._uid = ""
        self._generation = -1
        self._written = LibvirtHostStatus()
        self._written_at = 0.0
        self._labels_until = 0.0

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._publish, name="inventory", daemon=True).start()

    def publish_soon(self) -> None:
        """Survey the node without waiting for the next turn."""
        self._wake.set()

    def _publish(self) -> None:
        while True:
            began_at = time.monotonic()
            self._health.turned(
                "the thread that surveys the node", within_seconds=SURVEY_LATE_SECONDS, waits_for=LIBVIRT
            )
            with surviving("the survey of the node"):
                try:
                    self._read_labels()
                    self._write(self._look())
                except ClusterError as error:
                    _log.warning("the LibvirtHost was not written", extra={"error": str(error)})
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            # Changes within that time are one write.
            time.sleep(max(0.0, began_at + FACTS_SECONDS - time.monotonic()))

    def _read_labels(self) -> None:
        """The Node's labels decide which storage domains it serves; the last ones stay while the API server is away."""
        if time.monotonic() < self._labels_until:
            return
        node = self._cluster.get_node(self._node_name, may_be_older=True)
        self._on_labels(node[1] if node is not None else {})
        self._labels_until = time.monotonic() + LABELS_SECONDS

    def _look(self) -> LibvirtHostStatus:
        now = clock.now()
        try:
            found = self._survey()
        except MigrationError as error:
            found, ready, reason, message = self._written, False, error.reason.value, error.message
        else:
            ready, reason, message = True, "LibvirtAnswers", "libvirtd answers and the node's VMs are known."
        self._conditions = (
            conditions.condition(
                self._conditions, "Ready", ready, reason=reason, message=message, generation=None, now=now
            ),
        )
        return found.model_copy(update={"conditions": self._conditions, "clock_skew_seconds": _shown_skew()})

    def _write(self, status: LibvirtHostStatus) -> None:
        is_new = not self._uid
        if is_new:
            self._uid, self._generation = self._create()
        status = status.model_copy(update={"observed_generation": self._generation})
        seconds = interval(self._written, status)
        if not is_new and (seconds is None or time.monotonic() - self._written_at < seconds):
            return
        try:
            self._cluster.apply_status(
                LIBVIRT_HOSTS, self._node_name, status.to_wire(), uid=self._uid, field_manager=AGENT_FIELD_MANAGER
            )
        except ClusterError:
            # It may have been deleted, with its Node or by hand: the next turn makes a new one.
            self._uid = ""
            raise
        self._written, self._written_at = status, time.monotonic()

    def _create(self) -> tuple[str, int]:
        """Return the uid and the generation of the LibvirtHost.

        Make it where it is missing, owned by the Node so that it goes with it.
        """
        node = self._cluster.get_node(self._node_name)
        metadata = {}
        if node is not None:
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._node_name, "uid": node[0]}
            metadata = {"ownerReferences": [owner]}
        made = self._cluster.apply(
            LIBVIRT_HOSTS, self._node_name, {"metadata": metadata}, field_manager=AGENT_FIELD_MANAGER
        )
        return str(made["metadata"]["uid"]), int(made["metadata"]["generation"])


def _shown_skew() -> int | None:
    """Return the node's clock skew, so roughly that it is not written again and again."""
    return round(clock.skew_seconds() / _SKEW_STEP_SECONDS) * _SKEW_STEP_SECONDS or None
