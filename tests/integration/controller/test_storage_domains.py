"""What the operator says of a StorageDomain on the real API server, and how often it writes it."""

import json
import time
from typing import Any

import pytest

from diskmigration.api import names
from diskmigration.controller.storage_domain_pacing import COUNTS_SECONDS, FIGURES_SECONDS
from testbed.processes import TestbedError
from tests.integration.controller.conftest import Operator
from tests.integration.controller.world import GIB, World, disk, machine, ready
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("operator")

READY = {"Ready": "True", "Reconciling": "False", "Stalled": "False"}
WAITING = {"Ready": "False", "Reconciling": "True", "Stalled": "False"}


def body_of(world: World, short: str) -> dict[str, Any]:
    body = world.admin.get(names.STORAGE_DOMAINS, world.name(short))
    assert body is not None
    return body


def states(world: World, short: str) -> dict[str, str]:
    return {each["type"]: each["status"] for each in body_of(world, short)["status"].get("conditions", ())}


def is_observed(world: World, short: str) -> bool:
    body = body_of(world, short)
    return bool(body["status"]["observedGeneration"] == body["metadata"]["generation"])


def shown(world: World, short: str) -> dict[str, str]:
    found: dict[str, str] = body_of(world, short)["status"].get("display", {})
    return found


def patch_spec(world: World, short: str, **spec: Any) -> None:
    world.control_plane.kubectl(
        "patch", "sd", world.name(short), "--type=merge", f"--patch={json.dumps({'spec': spec})}"
    )


def test_a_domain_is_observed_before_any_node_and_ready_with_the_first(world: World) -> None:
    world.domain("src")
    wait_until(lambda: states(world, "src") == WAITING, "it waits for a node")
    world.node("n1", [], [ready("src", available=300 * GIB)])
    wait_until(lambda: states(world, "src") == READY, "it is ready")
    assert shown(world, "src") == {"available": "300.0Gi", "capacity": "1000.0Gi", "active": "0/4"}
    world.report(world.name("n1"), [], [ready("src", is_ready=False, reason="no mount")])
    wait_until(lambda: states(world, "src") == WAITING, "it waits for its node")


def test_each_generation_is_observed_also_of_a_spec_that_reads_the_same(world: World) -> None:
    world.domain("src", kind="lvm", thinProvisioning={"chunkSize": "1Gi"})
    for thin in ({"chunkSize": "1024Mi"}, {"chunkSize": "2Gi"}):
        patch_spec(world, "src", thinProvisioning=thin)
        wait_until(lambda: is_observed(world, "src"), f"{thin} is observed")


def test_a_domain_shows_the_migrations_that_occupy_a_place(world: World) -> None:
    world.domain("src", maxConcurrentMigrations=3)
    world.domain("dst")
    world.node("n1", [machine("web-1")])
    handle = world.migrate("m", "web-1")
    handle.until_phase("Scheduled")
    wait_until(lambda: shown(world, "src").get("active") == "1/3", "it shows", seconds=2 * COUNTS_SECONDS)
    wait_until(lambda: shown(world, "dst").get("active") == "1/4", "it shows", seconds=2 * COUNTS_SECONDS)
    assert body_of(world, "src")["status"]["activeMigrations"] == 1


@pytest.mark.nightly
def test_free_space_that_moves_costs_a_write_a_minute(world: World, operator: Operator) -> None:
    world.domain("src")
    node = world.node("n1", [], [ready("src", available=900 * GIB)])
    wait_until(lambda: states(world, "src") == READY, "it is ready")
    versions = {body_of(world, "src")["metadata"]["resourceVersion"]}
    before = body_of(world, "src")["status"]["availableBytes"]
    began_at, available = time.monotonic(), 900 * GIB

    def has_shown_other() -> bool:
        nonlocal available
        available -= 5 * GIB
        world.report(node, [], [ready("src", available=available)])
        body = body_of(world, "src")
        versions.add(body["metadata"]["resourceVersion"])
        return bool(body["status"]["availableBytes"] != before)

    wait_until(has_shown_other, "the free space is shown", seconds=FIGURES_SECONDS + 2 * COUNTS_SECONDS)
    assert len(versions) - 1 <= 1 + (time.monotonic() - began_at) / FIGURES_SECONDS
    assert operator.is_ready()


def test_a_domain_with_thin_volumes_of_a_running_vm_is_not_deleted(world: World) -> None:
    world.domain("src", kind="lvm")
    thin = disk(kind="Block")
    node = world.node("n1", [machine("web-1", disks=[thin])], [ready("src")])

    def is_refused() -> str:
        try:
            world.control_plane.kubectl("delete", "sd", world.name("src"), "--dry-run=server")
        except TestbedError as refused:
            return str(refused)
        return ""

    message = wait_until(is_refused, "it is refused", seconds=3 * COUNTS_SECONDS)
    assert "running VMs have 1 thin volumes in it (web-1)" in message

    world.report(node, [machine("web-1", disks=[thin], state="ShutOff")], [ready("src")])
    wait_until(lambda: not is_refused(), "it may be deleted", seconds=3 * COUNTS_SECONDS)
    world.control_plane.kubectl("delete", "sd", world.name("src"))
