"""Disks that move while the programs that move them are replaced, and killed."""

from pathlib import Path

import pytest

from testbed.cluster import Cluster
from tests.e2e import installation
from tests.e2e.user import FILES, LOOPS, apply_migration, writing_guest
from tests.waiting import wait_until

LEASE_SECONDS = 15


def test_a_rolling_update_in_mid_migration_loses_nothing(installed: Cluster, scratch: Path) -> None:
    with writing_guest(installed.nodes["node-a"], "web-1", scratch) as machine:
        migration = apply_migration(
            installed, "through-an-update", machine.name, to=LOOPS, cutover={"policy": "Manual"}
        )
        migration.wait_for_phase("Synchronized")
        before = {
            pod["metadata"]["uid"] for part in ("operator", "agent") for pod in installation.pods(installed, part)
        }
        for program in (installation.OPERATOR, installation.AGENT):
            installation.rollout(installed, "restart", program)
        for program in (installation.OPERATOR, installation.AGENT):
            installation.rollout(installed, "status", program, "--timeout=120s")

        def none_of_them() -> bool:
            now = {
                pod["metadata"]["uid"] for part in ("operator", "agent") for pod in installation.pods(installed, part)
            }
            return not before & now

        wait_until(none_of_them, "every pod is another one", seconds=60)
        assert migration.status()["phase"] == "Synchronized"
        machine.goes_on()
        migration.let_pivot()
        status = migration.succeed()
        assert status["attempts"] == 1
        machine.goes_on()
        machine.stop_and_verify()


@pytest.mark.nightly
def test_a_leader_that_is_killed_in_mid_migration_is_followed(installed: Cluster, scratch: Path) -> None:
    with writing_guest(installed.nodes["node-a"], "web-2", scratch) as machine:
        migration = apply_migration(installed, "without-a-leader", machine.name, to=LOOPS, cutover={"policy": "Manual"})
        migration.wait_for_phase("Synchronized")
        first = installation.leader(installed)
        pod = next(pod for pod in installation.pods(installed, "operator") if first.startswith(pod["metadata"]["name"]))
        installation.kill(pod)
        wait_until(
            lambda: found if (found := installation.leader(installed)) not in ("", first) else None,
            "another operator leads",
            seconds=LEASE_SECONDS + 15,
        )
        migration.let_pivot()
        migration.succeed()
        # Only a leader hands over.
        apply_migration(installed, "and-back", machine.name, to=FILES).succeed()
        machine.goes_on()
        machine.stop_and_verify()
