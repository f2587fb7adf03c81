"""Which of several operators works: the one that holds a Lease (coordination.k8s.io/v1).

As client-go's leaderelection: whoever finds the Lease unheld, or not renewed for its duration by his own clock, takes
it, and the API server's optimistic locking lets only one do so. Not `kubernetes.leaderelection`: it keeps the Lease
when the program ends, trusts the wall clock, has no time-out for its requests, and ends silently on a lost connection.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from diskmigration.cluster import resources
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError, ConflictError, ObjectGoneError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """In seconds: for how long a renewal counts, how long the leader goes on without one, how often all try.

    The leader gives up well before another may take over, so that two never write.
    """

    duration_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0

    def __post_init__(self) -> None:
        """Refuses terms under which two could lead."""
        if not 0 < self.retry_seconds < self.renew_deadline_seconds < self.duration_seconds:
            raise ValueError(f"{self}: it must be retry < renew deadline < duration")


class Leadership:
    """One candidate. `attempt` is for one thread at a time; `holds` for any."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet. `identity` is this process's alone."""
        self.terms = terms
        self.identity = identity
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._held_until = 0.0
        self._has_led = False
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0
        self._ending = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="leadership", daemon=True)

    def holds(self) -> bool:
        """Whether this candidate leads at this moment, by its own clock: also right after it was frozen for a while."""
        return self._clock() < self._held_until

    def attempt(self) -> bool:
        """Takes or renews the Lease if that is due; whether it is held now.

        Raises:
            ClusterUnavailableError, RefusedError: as every request; whether the Lease was written is not known.
        """
        found = self._cluster.get(resources.LEASES, self._name, self._namespace)
        asked_at = self._clock()
        if found is not None and not self._may_take(found.get("spec") or {}, asked_at):
            return False
        try:
            self._write(found)
        except (ConflictError, ObjectGoneError):
            # Somebody was faster.
            return False
        self._held_until = asked_at + self.terms.renew_deadline_seconds
        self._has_led = True
        return True

    def keep(self) -> None:
        """Renews in a thread of its own until `release`. A leader that cannot ends the process: see `_renew`."""
        self._renewer.start()

    def release(self) -> None:
        """Gives the Lease back, so that another need not wait for its end; nothing may be written after this."""
        self._ending.set()
        self._renewer.join()
        if not self.holds():
            return
        self._held_until = 0.0
        try:
            found = self._cluster.get(resources.LEASES, self._name, self._namespace)
            if found is not None and found["spec"].get("holderIdentity") == self.identity:
                self._write(found, holder="")
        except ClusterError as error:
            _log.warning("the leader's Lease was not given back; it runs out", extra={"error": str(error)})

    def _may_take(self, spec: dict[str, Any], now: float) -> bool:
        holder = spec.get("holderIdentity") or ""
        if self._has_led:
            # Whatever happened since this one led: what it knows is too old to lead again.
            return bool(holder == self.identity)
        seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        # The holder's own clock counts for nothing: only for how long nothing changed while we looked.
        is_over = now - self._seen_at >= float(spec.get("leaseDurationSeconds") or 0)
        return holder == "" or is_over

    def _write(self, found: dict[str, Any] | None, *, holder: str | None = None) -> None:
        holder = self.identity if holder is None else holder
        before = (found or {}).get("spec") or {}
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        is_same = before.get("holderIdentity") == holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self.terms.duration_seconds)),
            "acquireTime": before.get("acquireTime", now) if is_same else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if is_same or not holder else 1),
        }
        if found is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            self._cluster.create(resources.LEASES, {"metadata": metadata, "spec": spec}, namespace=self._namespace)
        else:
            self._cluster.replace(resources.LEASES, {**found, "spec": spec})

    def _renew(self) -> None:
        while not self._ending.wait(self.terms.retry_seconds):
            is_lost = not self.holds()
            try:
                is_lost = is_lost or not self.attempt()
            except ClusterError as error:
                _log.warning("the leader's Lease was not renewed", extra={"error": str(error)})
            if is_lost or not self.holds():
                _log.critical("another operator may lead now: this one ends", extra={"identity": self.identity})
                # At once, from whatever thread and in the middle of whatever: it must not write any more.
                os._exit(1)
