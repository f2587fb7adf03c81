"""Kubernetes Events (events.k8s.io/v1), so that `kubectl describe` tells an object's story."""

import logging
import queue
import threading
import uuid
from dataclasses import dataclass
from enum import StrEnum

from diskmigration import clock
from diskmigration.api.model import ObjectMeta
from diskmigration.cluster import resources
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError
from diskmigration.cluster.text import printable
from diskmigration.cluster.transport import JsonObject
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

BACKLOG = 100
"""Events beyond are dropped: the status has what matters."""

NOTE_LIMIT_BYTES = 1024
INSTANCE_LIMIT_BYTES = 128
NAMESPACE_OF_CLUSTER_SCOPED = "default"


class EventType(StrEnum):
    """Normal tells the story; Warning asks somebody to look."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True)
class Reporter:
    """Who speaks: the program (`diskmigration.dev/agent`) and which of its instances (the node or pod)."""

    controller: str
    instance: str


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to an object; `plural` names its kind.

    `reason` and `action` are CamelCase; a note of more than 1,024 bytes is cut, as the server would refuse it.
    """

    plural: str
    metadata: ObjectMeta
    reason: str
    note: str
    action: str
    event_type: EventType = EventType.NORMAL


class EventRecorder:
    """Records Events on a thread of its own, so that nobody waits for them; under load it drops them."""

    def __init__(self, cluster: Cluster, reporter: Reporter, *, backlog: int = BACKLOG) -> None:
        """Nothing is recorded before `start`. Of those that wait, `backlog` are kept."""
        self._cluster = cluster
        self._reporter = reporter
        self._backlog: queue.Queue[Event] = queue.Queue(backlog)

    def start(self) -> None:
        """Start recording."""
        threading.Thread(target=self._run, name="events", daemon=True).start()

    def record(self, event: Event) -> None:
        """Have one recorded soon; return at once."""
        try:
            self._backlog.put_nowait(event)
        except queue.Full:
            _log.warning("an Event was dropped", extra={"reason": event.reason, "object": event.metadata.name})

    def _run(self) -> None:
        while True:
            with surviving("the thread that records Events"):
                record_event(self._cluster, self._reporter, self._backlog.get())


def record_event(cluster: Cluster, reporter: Reporter, event: Event) -> None:
    """Tell of one thing that happened to an object. Best effort: a failure is logged and nothing else."""
    extra = {"reason": event.reason, "object": event.metadata.name}
    try:
        body = _body(reporter, event)
        cluster.create(resources.EVENTS, body, namespace=body["metadata"]["namespace"])
    except ClusterError as error:
        _log.warning("an Event was lost", extra={**extra, "error": str(error)})
    except Exception:  # noqa: BLE001 - whoever tells of something has other work to go on with
        _log.exception("an Event was lost", extra=extra)


def _body(reporter: Reporter, event: Event) -> JsonObject:
    metadata = event.metadata
    resource = resources.BY_PLURAL[event.plural]
    namespace = metadata.namespace or NAMESPACE_OF_CLUSTER_SCOPED
    regarding = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": metadata.name,
        "namespace": metadata.namespace,
        "uid": metadata.uid,
    }
    return {
        "metadata": {"name": f"{metadata.name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
        "eventTime": clock.now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": reporter.controller,
        "reportingInstance": _cut(reporter.instance, INSTANCE_LIMIT_BYTES),
        "action": event.action,
        "reason": event.reason,
        "regarding": regarding,
        "note": _cut(event.note, NOTE_LIMIT_BYTES),
        "type": event.event_type.value,
    }


def _cut(text: str, limit_bytes: int) -> str:
    text = printable(text)
    encoded = text.encode()
    return text if len(encoded) <= limit_bytes else encoded[: limit_bytes - 3].decode(errors="ignore") + "…"
