"""Statuses that an administrator writes by hand, which the schema lets pass and no program would write."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import NAMESPACE, Stack
from tests.variants import first_by_day
from tests.waiting import wait_until


@pytest.mark.parametrize(
    "status",
    first_by_day(
        [
            {"failure": {"reason": "NoReasonOfOurs", "message": "", "phase": "Pending"}},
            {
                "startTime": "2026-12-01T02:00:00+99:00",
                "attempts": -7,
                "progress": {"copiedBytes": -1, "percent": 7000},
            },
        ]
    ),
    ids=["a reason that is none", "a time that is none"],
)
def test_a_migration_is_heard_whatever_somebody_wrote_to_its_status(
    stack: Stack, machines: Callable[..., Machine], status: dict[str, Any]
) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    options = (f"--namespace={NAMESPACE}", "--subresource=status", "--type=merge")
    stack.control_plane.kubectl("patch", "dm", migration.name, *options, f"--patch={json.dumps({'status': status})}")

    migration.patch({"cancel": True})

    migration.wait_for_phase("Cancelled")
    wait_until(lambda: not machine.has_journal(), "the disk is free")
    machine.verify()
