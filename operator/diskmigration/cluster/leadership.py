"""Which of several operators works: the one that holds a Lease (coordination.k8s.io/v1).

As client-go's leaderelection: whoever finds the Lease unheld, or not renewed for its duration by his own clock, takes
it, and the API server's optimistic locking lets only one do so. Not `kubernetes.leaderelection`: it keeps the Lease
when the program ends, trusts the wall clock, has no time-out for its requests, and ends silently on a lost connection.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diskmigration import clock
from diskmigration.cluster import resources
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError, ConflictError, ObjectGoneError
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

_TRIES_IN_DEADLINE = 4
"""No request about the Lease may take so much of the renew deadline that there is no time for another one."""


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
    """One candidate; thread-safe."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms,
        on_turn: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet. `identity` is this process's alone; `on_turn` is called before each renewal."""
        self.terms = terms
        self.identity = identity
        self._cluster = cluster.impatient(timeout_seconds=terms.renew_deadline_seconds / _TRIES_IN_DEADLINE)
        self._namespace = namespace
        self._name = name
        self._on_turn = on_turn
        self._clock = clock
        self._held_until = 0.0
        self._has_led = False
        self._has_lost = False
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0
        self._asking = threading.Lock()
        self._ending = threading.Event()
        self._threads: tuple[threading.Thread, ...] = ()

    def holds(self) -> bool:
        """Whether this candidate leads at this moment, by its own clock: also right after it was frozen for a while."""
        return self._clock() < self._held_until

    def attempt(self) -> bool:
        """Takes or renews the Lease if that may be; whether it was written. Never after `release`.

        Raises:
            ClusterUnavailableError, RefusedError: as every request; whether the Lease was written is not known.
        """
        with self._asking:
            if self._ending.is_set():
                return False
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
        """Renews in a thread of its own until `release`, and ends the process as soon as the Lease is not held.

        Another thread does the latter, as the first may wait for an API server that does not answer.
        """
        self._threads = (
            threading.Thread(target=self._renew, name="leadership", daemon=True),
            threading.Thread(target=self._guard, name="leadership-guard", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def release(self) -> None:
        """Gives the Lease back, so that another need not wait for its end; nothing may be written after this.

        An attempt that is under way, say of a caller that was cancelled, is waited for, and what it took is given back.
        """
        self._ending.set()
        for thread in self._threads:
            thread.join()
        with self._asking:
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
            self._has_lost = holder != self.identity
            return not self._has_lost
        seen = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        # The holder's own clock counts for nothing: only for how long nothing changed while we looked.
        is_over = now - self._seen_at >= float(spec.get("leaseDurationSeconds") or 0)
        return holder == "" or is_over

    def _write(self, found: dict[str, Any] | None, *, holder: str | None = None) -> None:
        holder = self.identity if holder is None else holder
        before = (found or {}).get("spec") or {}
        now = clock.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        is_same = before.get("holderIdentity") == holder
        spec = {
            "holderIdentity": holder,
            # Upwards: the others wait for what is written here, and never for less than what was agreed.
            "leaseDurationSeconds": math.ceil(self.terms.duration_seconds),
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
        while True:
            self._on_turn()
            if self._ending.wait(self.terms.retry_seconds):
                return
            with surviving("the leader's Lease", pause=self._ending.wait):
                try:
                    self.attempt()
                except ClusterError as error:
                    _log.warning("the leader's Lease was not renewed", extra={"error": str(error)})
            if self._has_lost:
                self._end_process("the Lease is another's")

    def _guard(self) -> None:
        while not self._ending.wait(max(0.0, self._held_until - self._clock())):
            if not self.holds():
                self._end_process("the Lease could not be renewed in time")

    def _end_process(self, why: str) -> None:
        self._held_until = 0.0
        _log.critical("another operator may lead now: this one ends", extra={"identity": self.identity, "reason": why})
        # At once, from whatever thread and in the middle of whatever: it must not write any more.
        os._exit(1)
