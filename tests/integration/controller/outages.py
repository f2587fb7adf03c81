"""Agents that live and go away."""

import threading

from tests.integration.controller.world import World

STALE_SECONDS = 6
GRACE_SECONDS = 2
OPTIONS = (f"--lease-stale-seconds={STALE_SECONDS}", f"--acceptance-grace-seconds={GRACE_SECONDS}")


class Heartbeats:
    """The Leases of nodes, renewed all the time but for those that are stopped."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._nodes: set[str] = set()
        self._guard = threading.Lock()

    def begin(self, node: str) -> None:
        """That node's agent lives."""
        with self._guard:
            self._world.renew(node)
            self._nodes.add(node)

    def stop(self, node: str) -> None:
        """That node's agent is away."""
        # No renewal is under way then, that an API server which is stopped next would take when it is back.
        with self._guard:
            self._nodes.discard(node)

    def run(self, ended: threading.Event) -> None:
        """Renews them until the event is set."""
        while not ended.wait(STALE_SECONDS / 8):
            with self._guard:
                for node in sorted(self._nodes):
                    self._world.renew(node)
