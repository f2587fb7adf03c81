"""Whatever chance does with disks, their migrations and the agent: no byte is ever lost, and nothing is left.

Everything is drawn from one seed, which is printed: the same one makes the same choices, although what they meet
depends on the machine's speed. `make soak` runs it for as long as it is told.
"""

import concurrent.futures
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.loop_devices import attached
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Stack
from tests.integration.soak.play import Log, Player

SECONDS = int(os.environ.get("DISKMIGRATION_SOAK_SECONDS", "20"))
SEED = int(os.environ.get("DISKMIGRATION_SOAK_SEED") or random.SystemRandom().randrange(2**32))
_VMS = 3
_LAST_MOVE_SECONDS = 400
_AGENT_LIVES_SECONDS = (5, 30)


@pytest.mark.timeout(SECONDS + _LAST_MOVE_SECONDS)
def test_disks_move_about_by_chance(stack: Stack, machines: Callable[..., Machine], scratch: Path) -> None:
    log, over = Log(), threading.Event()
    log.note(f"SEED={SEED}, {SECONDS} s")
    players = [Player(stack, scratch, number, SEED, log, over) for number in range(_VMS)]
    with ThreadPoolExecutor(_VMS) as pool:
        playing = [pool.submit(player.play) for player in players]
        try:
            _kill_agents(stack, playing, log, until=log.begun + SECONDS)
        finally:
            over.set()
        for player in playing:
            player.result()
    assert log.ended["Succeeded"] > 0
    for domain in stack.domains.values():
        assert domain.files() == []
        assert attached(domain.root) == {}
    log.note(f"SEED={SEED}: {log.summary()}")


def _kill_agents(stack: Stack, playing: list[concurrent.futures.Future[None]], log: Log, *, until: float) -> None:
    """Each agent lives for a while only, until the time is over or a player has failed."""
    chance = random.Random(f"{SEED}/agent")  # noqa: S311 - to be repeated, not to be secret
    while (left := until - time.monotonic()) > 0:
        lives = min(chance.uniform(*_AGENT_LIVES_SECONDS), left)
        if concurrent.futures.wait(playing, lives, return_when=FIRST_EXCEPTION).done:
            return
        log.note("the agent is killed")
        stack.agent.kill()
        stack.agent.start()
