"""What one migration costs the API server: its requests, counted by kind."""

import re
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import Stack
from tests.waiting import wait_until

# Those of a migration and of nothing else: Leases, the Hypervisor and the StorageDomains' statuses go on without it.
COUNTED = ("diskmigrations", "events")
WRITES = ("APPLY", "PATCH", "POST", "PUT", "DELETE")
_LINE = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def requests(stack: Stack) -> Counter[str]:
    """The writes that the API server has answered since it started, by verb and resource."""
    found: Counter[str] = Counter()
    for line in _LINE.finditer(stack.control_plane.kubectl("get", "--raw", "/metrics")):
        labels = dict(_LABEL.findall(line["labels"]))
        if labels["resource"] in COUNTED and labels["verb"] in WRITES:
            what = "/".join(filter(None, (labels["resource"], labels["subresource"])))
            found[f"{labels['verb']} {what}"] += int(float(line["count"]))
    return found


@pytest.mark.parametrize(
    "spec",
    [{"strategy": "Snapshot"}, pytest.param({"strategy": "Direct"}, marks=pytest.mark.nightly)],
    ids=["snapshot", "direct"],
)
def test_a_move_of_seconds_takes_few_requests(
    stack: Stack, machines: Callable[..., Machine], spec: dict[str, object]
) -> None:
    machine = machines("file-a")
    before = requests(stack)
    began_at = time.monotonic()

    migration = stack.migrate(machine, "file-b", **spec)
    migration.succeed()
    seconds = time.monotonic() - began_at
    wait_until(lambda: not migration.get()["metadata"].get("finalizers"), "the operator is done with it")
    wait_until(lambda: not machine.has_journal(), "the agent is done with it")

    counted = requests(stack) - before
    # The one that makes the object is the user's. Each second more may have a phase or figures that are written.
    assert counted.total() - 1 <= 10 + max(0.0, 3 * (seconds - 2)), counted
    assert sum(count for what, count in counted.items() if what.endswith(" events")) <= 3, counted
