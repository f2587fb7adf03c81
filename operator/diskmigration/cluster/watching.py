"""Runs kopf, waits no longer for its end than an end may take, and begins it again when it broke."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Set
from typing import Any, NoReturn

import kopf

# kopf takes one from its caller, and names the class nowhere else.
from kopf._cogs.structs.references import Insights

from diskmigration.api.names import GROUP
from diskmigration.backoff import Backoff
from diskmigration.cluster.errors import ClusterError

_log = logging.getLogger(__name__)

END_SECONDS = 10.0
"""kopf itself gives its watches five seconds to end."""

BACKOFF = Backoff(first_seconds=1.0, longest_seconds=60.0)
LASTED_SECONDS = 120.0
"""A watch that lasted so long is begun again as soon as the first time."""

# kopf's name for this process among its peers, of which there are none. It would look up the user's, and a container's
# user has none. Any, as the type is kopf's own.
_IDENTITY: Any = f"{GROUP}/diskmigration"


class _NothingToCompare(kopf.DiffBaseStorage):
    """For programs that take every event as it is: kopf else copies each object to find what it has changed."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        """There is nothing to keep."""


class WatchHangsError(ClusterError):
    """A watch broke, and its tasks do not end."""


class KindsMissingError(ClusterError):
    """The API server does not serve a kind that is to be watched."""


async def keep_watching(
    run: Callable[[], Awaitable[None]],
    *,
    fatal: type[Exception] | tuple[type[Exception], ...] = (),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> NoReturn:
    """Run a watch, and run it again whenever it ends, until this is cancelled.

    kopf ends on each answer that it does not know: a kind that is not installed (404), credentials that are refused
    (401), an error event of an etcd without a leader, what a balancer answers in the API server's place.

    Raises:
        Exception: one of the `fatal` ones.
    """
    failures = 0
    while True:
        began_at = clock()
        try:
            await run()
        except fatal:
            raise
        except Exception:  # noqa: BLE001 - whatever kopf ends on
            _log.exception("the watch of the Kubernetes API broke; it is begun again")
        else:
            _log.error("the watch of the Kubernetes API ended; it is begun again")
        failures = 0 if clock() - began_at >= LASTED_SECONDS else failures
        failures += 1
        # Many agents wait at the same time.
        await sleep(BACKOFF.spread_seconds(failures))


async def watch(registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings, *, plurals: Set[str]) -> None:
    """Hand on events of these kinds until kopf ends, or this is cancelled. Not for a main thread: see running.py.

    The registry may have handlers of events alone, as nothing is kept of what objects were before.

    A watch that is told to end while kopf has no valid credentials waits for some, and passes over every cancellation
    (seen in 1.45: `stream` returns on it, and `continuous_watch` begins anew). Such a task is left behind, and waits
    for ever: nobody fills its vault again. The event loop must not be waited for, as asyncio.run would.

    Raises:
        WatchHangsError: kopf began to end and did not get there.
        KindsMissingError: a kind is not installed, or not known to the API server yet.
        Exception: whatever kopf ended on, say credentials that are refused, or an answer it does not know.
    """
    settings.persistence.diffbase_storage = _NothingToCompare()
    is_ending = asyncio.Event()

    @kopf.on.cleanup(registry=registry, id="is_ending")
    async def tell(**_: Any) -> None:
        is_ending.set()

    # kopf's would be 10 minutes from here to a SIGKILL, even where the process goes on with another watch.
    settings.process.ultimate_exiting_timeout = None
    # Before kopf's own: it cancels every task that began after them.
    telling = asyncio.create_task(is_ending.wait(), name="kopf's end")
    await asyncio.sleep(0)
    insights = Insights()
    operator = kopf.operator(
        registry=registry,
        settings=settings,
        insights=insights,
        clusterwide=True,
        standalone=True,
        identity=_IDENTITY,
    )
    looking = asyncio.create_task(_require_kinds(insights, plurals), name="kinds")
    await asyncio.sleep(0)
    running = asyncio.create_task(operator, name="kopf")
    try:
        await asyncio.wait({running, telling, looking}, return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            looking.result()
            await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
    except BaseException:
        running.cancel()
        await asyncio.wait({running}, timeout=END_SECONDS)
        raise
    finally:
        looking.cancel()
        telling.cancel()
    ended, _ = await asyncio.wait({running}, timeout=END_SECONDS)
    if not ended:
        raise WatchHangsError("the watch of the Kubernetes API broke, and hangs in its end")
    running.result()


async def _require_kinds(insights: Insights, plurals: Set[str]) -> None:
    """Raise KindsMissingError where kopf has found fewer: it watches the others and never looks for these again."""
    await insights.ready_resources.wait()
    if missing := plurals - {resource.plural for resource in insights.watched_resources}:
        raise KindsMissingError(f"the API server does not serve {', '.join(sorted(missing))} of {GROUP}")
