"""The controller's tasks: read everything once, then work on whatever is woken, and look again now and then."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from diskmigration import clock
from diskmigration.api import names
from diskmigration.backoff import Backoff
from diskmigration.cluster.client import Cluster, JsonObjects
from diskmigration.cluster.errors import ClusterError, ConflictError, ObjectGoneError
from diskmigration.cluster.events import EventRecorder, Reporter
from diskmigration.cluster.leases import list_leases
from diskmigration.controller import liveness, metrics, storage_domain_pacing
from diskmigration.controller.freshness import StoreWentBackError, require_no_step_back
from diskmigration.controller.reconciler import Reconciler
from diskmigration.controller.state import ControllerState, Wake
from diskmigration.controller.storage_domain_reconciler import DomainReconciler
from diskmigration.controller.workqueue import WorkQueue
from diskmigration.observability.health import Health

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

WORKERS = 16
RELIST_SHARE = 0.02
"""Of the time: to list ten thousand objects is work, for an API server that is slow because it has too much of it."""
POSITIONS_SECONDS = 5.0
POSITIONS_AT_ONCE = 50
DOMAIN_DELAY_SECONDS = 0.5
"""Many nodes report at once: one write of a StorageDomain's status for all of them."""
NODES_PER_SECOND = 100
"""The delay is a second longer for so many nodes: each write is an event for each of their agents."""
LONGEST_DOMAIN_DELAY_SECONDS = 30.0
BACKOFF = Backoff(first_seconds=0.25, longest_seconds=30.0)
STUCK_SECONDS = 120.0
"""No step takes so long: a worker that is busy for longer hangs."""

KUBERNETES_API = "the Kubernetes API"
"""What the operator needs to be ready."""

_DOMAIN_PREFIX = "storagedomain:"

EVENTS_BACKLOG = 1000
"""Events beyond are dropped: the statuses have what matters."""


@dataclass(frozen=True)
class Options:
    """What the command line may change."""

    namespace: str = names.SYSTEM_NAMESPACE
    acceptance_grace_seconds: float = 30.0
    lease_stale_seconds: float = 30.0
    lease_poll_seconds: float = 5.0
    relist_seconds: float = 180.0
    """kopf lists again when its watch was down, but a deletion that fell into that gap it never tells."""


class Controller:
    """One event loop owns it. Standing by, it may observe; `load` and `run` are for the one that leads."""

    def __init__(self, cluster: Cluster, options: Options, *, instance: str, health: Health) -> None:
        """`instance` is this process's name in Events, say its pod."""
        self._cluster = cluster
        self._health = health
        self._options = options
        self._executor = ThreadPoolExecutor(max_workers=WORKERS + 4, thread_name_prefix="request")
        self._work = WorkQueue()
        self._events = EventRecorder(cluster, Reporter(f"{names.GROUP}/operator", instance), backlog=EVENTS_BACKLOG)
        self.state = ControllerState(
            system_namespace=options.namespace,
            wake=Wake(migration=self._work.add, domain=self._write_domain_soon),
        )
        self._reconciler = Reconciler(
            cluster,
            self.state,
            self._events,
            request=self._request,
            look_again=self._work.add_after,
            acceptance_grace_seconds=options.acceptance_grace_seconds,
        )
        self._domain_reconciler = DomainReconciler(cluster, self.state, request=self._request)
        self._leases: dict[str, liveness.Seen] = {}
        self._looked_at_leases: float | None = None
        self._failures: dict[str, int] = {}
        self._busy_since: dict[int, float] = {}

    async def load(self) -> None:
        """Reads everything before anything is decided: a place that is taken must never be given again.

        Raises:
            ClusterError: the API server does not answer, does not know the kinds, or refuses.
        """
        await self._look_at_leases()
        await self.relist()
        self.state.scheduler.open()
        await self._look_at_domains()
        found = {"migrations": len(self.state.migrations.active), "queued": self.state.scheduler.queue_length}
        _log.info("everything is read", extra=found)

    async def run(self) -> None:
        """Works until it is cancelled; whatever it raises is a defect of this program."""
        self._events.start()
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._worker(number), name=f"worker {number}")
            tasks.create_task(_every(self._options.lease_poll_seconds, self._look_at_leases), name="leases")
            tasks.create_task(_every(self._options.relist_seconds, self.relist, share=RELIST_SHARE), name="relist")
            tasks.create_task(_every(POSITIONS_SECONDS, self._refresh_positions), name="positions")
            tasks.create_task(
                _every(storage_domain_pacing.COUNTS_SECONDS, self._look_at_domains), name="storage domains"
            )

    def close(self) -> None:
        """Waits for the requests that are under way, after `run` was cancelled; no new one begins."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def why_stuck(self) -> list[str]:
        """The workers that are busy with one object for longer than any step may take, for the liveness probe."""
        now = time.monotonic()
        # A copy in one go, as the probe asks from another thread.
        busy = self._busy_since.copy().items()
        return [f"worker {number} hangs" for number, since in busy if now - since > STUCK_SECONDS]

    async def relist(self) -> None:
        """Reads everything again.

        Raises:
            ClusterError: the API server does not answer; what was read before that counts.
            StoreWentBackError: all that is kept is wrong.
        """
        state = self.state
        await self._relist(
            names.STORAGE_DOMAINS, state.inventory.domain_names, state.observe_domain, state.forget_domain
        )
        await self._relist(names.LIBVIRT_HOSTS, state.inventory.host_names, state.observe_host, state.forget_host)
        await self._relist(
            names.DISK_MIGRATIONS, state.migrations.keys, state.observe_migration, self._forget_migration
        )

    async def _relist(
        self,
        plural: str,
        known: Callable[[], list[str]],
        observe: Callable[[Mapping[str, Any]], None],
        forget: Callable[[str], None],
    ) -> None:
        missing, versions = set(known()), self.state.versions()
        async for page in self._pages(plural):
            for body in page:
                require_no_step_back(versions, body)
                observe(body)
                missing.discard(_key(body))
        for key in missing:
            # It may be younger than the list: only its own absence counts.
            namespace, _, name = key.rpartition("/")
            found = await self._request(self._cluster.get, plural, name, namespace)
            if found is None:
                forget(key)
            else:
                require_no_step_back(versions, found)
                observe(found)

    async def _pages(self, plural: str) -> AsyncIterator[JsonObjects]:
        pages = self._cluster.pages(plural)
        while (page := await self._request(next, pages, None)) is not None:
            yield page

    def _write_domain_soon(self, name: str) -> None:
        delay = DOMAIN_DELAY_SECONDS + len(self.state.inventory.host_names()) / NODES_PER_SECOND
        self._work.add_after(_DOMAIN_PREFIX + name, min(delay, LONGEST_DOMAIN_DELAY_SECONDS))

    def _forget_migration(self, key: str) -> None:
        if (uid := self.state.migrations.uid_of(key)) is not None:
            self.state.forget_migration(key, uid)

    async def _look_at_leases(self) -> None:
        self._health.turned("the task that reads the agents' Leases", within_seconds=STUCK_SECONDS)
        try:
            leases = await self._request(list_leases, self._cluster, self._options.namespace)
        except ClusterError as error:
            self._health.fails(KUBERNETES_API, str(error))
            raise
        self._health.answers(KUBERNETES_API)
        now = time.monotonic()
        # In a longer gap the API server did not answer us, nor then the agents.
        gap = now - self._looked_at_leases if self._looked_at_leases is not None else 0.0
        self._looked_at_leases = now
        looked_for = min(gap, 2 * self._options.lease_poll_seconds)
        self._leases = liveness.look(self._leases, leases, looked_for_seconds=looked_for, now=clock.now())
        self.state.set_liveness(liveness.judge(self._leases, stale_seconds=self._options.lease_stale_seconds))

    async def _refresh_positions(self) -> None:
        self.state.scheduler.refresh_positions(at_most=POSITIONS_AT_ONCE)

    async def _look_at_domains(self) -> None:
        """Room and counts change all the time and wake nobody."""
        for name in self.state.inventory.domain_names():
            self._work.add(_DOMAIN_PREFIX + name)

    async def _worker(self, number: int) -> None:
        while True:
            key = await self._work.get()
            self._busy_since[number] = time.monotonic()
            try:
                with metrics.RECONCILE_SECONDS.time():
                    await self._step(key)
            finally:
                del self._busy_since[number]
                self._work.done(key)

    async def _step(self, key: str) -> None:
        """One step, and what becomes of its failure: it is made again, later each time."""
        try:
            if key.startswith(_DOMAIN_PREFIX):
                name = key.removeprefix(_DOMAIN_PREFIX)
                await self._domain_reconciler.reconcile_domain(name)
            else:
                await self._reconcile_migration(key)
        except ClusterError as error:
            delay = self._next_delay(key)
            metrics.RECONCILE_ERRORS.inc()
            _log.warning("a step failed; it is made again", extra={"object": key, "error": str(error), "in": delay})
            self._work.add_after(key, delay)
        except StoreWentBackError:
            raise
        except Exception:  # noqa: BLE001 - one object that trips a defect must not stop the others
            delay = self._next_delay(key)
            metrics.RECONCILE_ERRORS.inc()
            _log.exception("a step met a defect of this program", extra={"object": key})
            self._work.add_after(key, delay)
        else:
            self._failures.pop(key, None)

    async def _reconcile_migration(self, key: str) -> None:
        try:
            await self._reconciler.reconcile_migration(key)
        except (ConflictError, ObjectGoneError) as stale:
            # What was known is older than what is: take that in, which wakes the object again.
            _log.debug("the object has changed meanwhile", extra={"migration": key, "error": str(stale)})
            namespace, _, name = key.rpartition("/")
            versions = self.state.migrations.version_of(key)
            body = await self._request(self._cluster.get, names.DISK_MIGRATIONS, name, namespace)
            if body is None:
                self._forget_migration(key)
            else:
                require_no_step_back(versions, body)
                self.state.observe_migration(body)
                self._work.add_after(key, self._next_delay(key))

    def _next_delay(self, key: str) -> float:
        self._failures[key] = self._failures.get(key, 0) + 1
        return BACKOFF.spread_seconds(self._failures[key])

    async def _request(self, call: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, functools.partial(call, *args, **kwargs)
        )


async def _every(seconds: float, act: Callable[[], Awaitable[None]], *, share: float | None = None) -> None:
    """Acts again and again, that long after the last time, or longer where it would take more than its share of it."""
    took = 0.0
    while True:
        await asyncio.sleep(seconds if share is None else max(seconds, took / share))
        began = time.monotonic()
        try:
            await act()
        except ClusterError as error:
            _log.warning("the API server did not answer; trying again", extra={"error": str(error)})
            # What was waited for without an answer was no work for it.
            took = 0.0
        else:
            took = time.monotonic() - began


def _key(body: Mapping[str, Any]) -> str:
    metadata = body["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
