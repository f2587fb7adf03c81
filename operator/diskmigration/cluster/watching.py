"""Runs kopf, and waits no longer for its end than an end may take."""

import asyncio
from typing import Any

import kopf

from diskmigration.api.names import GROUP
from diskmigration.cluster.errors import ClusterError

END_SECONDS = 10.0
"""kopf itself gives its watches five seconds to end."""

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
    """Nothing is watched any more, and nothing will be: only a new process helps."""


async def watch(registry: kopf.OperatorRegistry, settings: kopf.OperatorSettings) -> None:
    """Hands on events until the process is told to end: kopf takes SIGTERM and SIGINT for itself, and returns on them.

    The registry may have handlers of events alone, as nothing is kept of what objects were before.

    A watch that is told to end while kopf has no valid credentials waits for some, and passes over every cancellation
    (seen in 1.45: `stream` returns on it, and `continuous_watch` begins anew). Such a task is left behind: the event
    loop must not be waited for either, as asyncio.run would.

    Raises:
        WatchHangsError: kopf began to end and did not get there.
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
    running = asyncio.create_task(
        kopf.operator(registry=registry, settings=settings, clusterwide=True, standalone=True, identity=_IDENTITY),
        name="kopf",
    )
    try:
        await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.wait({running}, timeout=END_SECONDS)
        raise
    finally:
        telling.cancel()
    ended, _ = await asyncio.wait({running}, timeout=END_SECONDS)
    if not ended:
        raise WatchHangsError("the watch of the Kubernetes API broke, and hangs in its end")
    running.result()
