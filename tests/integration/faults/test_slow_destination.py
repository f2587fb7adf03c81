"""The destination does not grow in time: the guest comes first, and its thin volume grows without it."""

from collections.abc import Callable

import pytest

from tests.integration.faults.held_agent import EXTENSION
from tests.integration.faults.holds import Holds
from tests.integration.migrations.growth import (
    finish,
    free_bytes,
    set_watermark,
    synchronized,
    watched,
    write_in_steps,
)
from tests.integration.migrations.machines import MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import WATERMARK_BYTES, Stack


def test_a_source_grows_without_a_destination_that_hangs(
    stack: Stack, holds: Holds, block: Domain, machines: Callable[..., Machine], request: pytest.FixtureRequest
) -> None:
    # So much that the source waits at first, and the destination is the one that is held.
    set_watermark(stack, request, block, stack.domains["loop-b"], watermark_bytes=4 * WATERMARK_BYTES)
    machine = machines(block)
    migration = synchronized(stack, machine, "loop-b", strategy="Direct")
    [source] = machine.volumes
    holds.arm(EXTENSION)

    with watched(source) as grown:
        write_in_steps(
            machine, start=20 * MEBIBYTE, length=80 * MEBIBYTE, free=lambda: free_bytes(machine, str(source))
        )

    assert holds.is_reached(EXTENSION)
    assert grown
    holds.release()
    # A mirror that has met its end meanwhile has cost an attempt, and no byte.
    finish(migration, machine)
