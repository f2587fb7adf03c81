"""Many simulated agents in a process: `python -m tests.scale.fleet PLAN`. It ends on SIGTERM, and tells its counts."""

import asyncio
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from diskmigration.agent.watching import watch
from diskmigration.cluster.client import connect
from diskmigration.observability import logs
from tests.scale.simulated_node import Moves, SimulatedNode

THREADS = 16
START_SECONDS = 0.05
"""Between two agents' starts, as a DaemonSet's pods do not start at one moment either."""


@dataclass(frozen=True)
class Plan:
    """Which nodes, each with its kubeconfig and its VMs' numbers (start, stop, step), and where the counts go."""

    nodes: dict[str, str]
    numbers: dict[str, tuple[int, int, int]]
    step_seconds: dict[str, float]
    counts: str


@dataclass(frozen=True)
class Counts:
    """Of one agent: how often its watch told it of a migration, and how often of another node's."""

    events: int
    foreign_events: int


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    logs.set_up(level="WARNING")
    threading.excepthook = _end
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    moves = Moves(plan.step_seconds)
    clusters = {name: connect(Path(kubeconfig)) for name, kubeconfig in plan.nodes.items()}
    nodes = [SimulatedNode(cluster, name, range(*plan.numbers[name]), moves) for name, cluster in clusters.items()]

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        async with asyncio.TaskGroup() as tasks:
            for node in nodes:
                tasks.create_task(watch(clusters[node.name], node, node_name=node.name, health=node.health))
                await asyncio.sleep(START_SECONDS)

    # In a thread, as kopf takes the signals of the main thread's loop for itself.
    threading.Thread(target=asyncio.run, args=[run()], daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    counts = {node.name: asdict(Counts(node.events, node.foreign_events)) for node in nodes}
    Path(plan.counts).write_text(json.dumps(counts))
    os._exit(0)


def _end(failure: threading.ExceptHookArgs) -> None:
    """A thread that ended by a defect must not go unnoticed."""
    threading.__excepthook__(failure)
    os._exit(1)


if __name__ == "__main__":
    main()
