"""What Prometheus is told of a move and of the storage domains."""

import re

from diskmigration.api import names
from tests.integration.controller.conftest import Operator
from tests.integration.controller.world import World, agent_status, machine, ready
from tests.waiting import wait_until


def value(operator: Operator, sample: str) -> float | None:
    """A sample as it is scraped, by its name and labels as they are written."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", operator.get("metrics"), re.MULTILINE)
    return float(found.group(1)) if found else None


def test_an_end_its_phases_and_the_room_are_told(world: World, operator: Operator) -> None:
    world.domain("src")
    world.domain("dst")
    world.node("n1", [machine(world.name("vm"))], [ready("src"), ready("dst")])
    room = f'diskmigration_storage_domain_available_bytes{{storage_domain="{world.name("dst")}"}}'
    wait_until(lambda: value(operator, room), "the room is told")
    handle = world.migrate("m", world.name("vm"))
    handle.until_phase("Scheduled")
    ended = 'diskmigration_ended_total{phase="Failed",reason="CopyFailed"}'
    took = 'diskmigration_phase_seconds_count{phase="Scheduled"}'
    before = [value(operator, sample) or 0 for sample in (ended, took)]

    status = agent_status(handle.status(), "Failed", is_final=True)
    for condition in status["conditions"]:
        condition["reason"] = "CopyFailed"
    handle.agent_writes(status)

    for sample, seen in zip((ended, took), before, strict=True):
        wait_until(lambda: (value(operator, sample) or 0) == seen + 1, f"{sample} counts it")  # noqa: B023 - at once
    assert (value(operator, "diskmigration_api_request_seconds_count") or 0) > 0
    domain = world.admin.get(names.STORAGE_DOMAINS, world.name("dst"))
    assert domain is not None
    world.admin.delete(names.STORAGE_DOMAINS, world.name("dst"), uid=domain["metadata"]["uid"])
    wait_until(lambda: value(operator, room) is None, "a storage domain that is gone is told no more")
