"""What a user may ask of a migration while it runs, and what its object says from the first second to the last."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.migrations.machines import MEBIBYTE, Machine
from tests.integration.migrations.stack import NAMESPACE, NODE, Migration, Stack, make_domain
from tests.integration.migrations.volumes import made_volume
from tests.variants import first_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]

PAIRS = [("file-a", "loop-b"), ("loop-a", "file-b")]
SLOWEST = "64Ki"
LIMIT_BYTES = 4 * MEBIBYTE


@dataclass(frozen=True)
class Held:
    """A migration that stays in its phase until it is let go, and how the disk was before it."""

    migration: Migration
    machine: Machine
    chain: list[tuple[str, str]]
    inactive_chain: list[tuple[str, str]]
    files: dict[str, list[str]]

    def assert_as_before(self) -> None:
        """The VM has its chain and its data, and nothing of the migration is left."""
        stack = self.migration.stack
        assert self.machine.chain() == self.chain
        assert self.machine.chain(inactive=True) == self.inactive_chain
        assert "mirror" not in self.machine.xml()
        assert {name: domain.files() for name, domain in stack.domains.items()} == self.files
        wait_until(lambda: not self.machine.has_journal(), "the disk is free")
        self.machine.verify()


# Little, as a merge keeps to the bandwidth too.
MARK = {"offset": 60 * MEBIBYTE, "length": MEBIBYTE // 16, "pattern": 60}
"""What the guest of a held migration writes."""


def hold(stack: Stack, machine: Machine, to: str, phase: str, **spec: Any) -> Held:
    """A migration that stays in CopyingChain, Replicating (of a Direct one) or Synchronized."""
    ways: dict[str, dict[str, Any]] = {
        "CopyingChain": {"bandwidth": SLOWEST},
        "Replicating": {"bandwidth": SLOWEST, "strategy": "Direct"},
        "Synchronized": {"cutover": {"policy": "Manual"}},
    }
    files = {name: domain.files() for name, domain in stack.domains.items()}
    chain, inactive = machine.chain(), machine.chain(inactive=True)
    migration = stack.migrate(machine, to, **{**ways[phase], **spec})
    migration.wait_for_phase(phase)
    machine.write(**MARK)
    return Held(migration, machine, chain, inactive, files)


def moment(text: str) -> datetime:
    """A time of the status."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def assert_moved(stack: Stack, machine: Machine, to: str) -> None:
    """The disk is at its destination, alone and whole."""
    assert machine.chain()[0][0].startswith(str(stack.domains[to].root))
    assert machine.chain(inactive=True)[0] == machine.chain()[0]
    assert "mirror" not in machine.xml()
    machine.verify()


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
@pytest.mark.parametrize("phase", first_by_day(["Replicating", "CopyingChain", "Synchronized"]))
def test_it_can_be_cancelled_in_each_phase(
    stack: Stack, machines: Machines, source: str, destination: str, phase: str
) -> None:
    held = hold(stack, machines(source, chain=1 if phase == "Replicating" else 3), destination, phase)

    held.migration.patch({"cancel": True})

    status = held.migration.wait_for_phase("Cancelled")
    assert (status["failure"]["reason"], status["failure"]["phase"]) == ("Cancelled", phase)
    assert status["completionTime"]
    assert "pivotedTime" not in status
    held.assert_as_before()
    stack.migrate(held.machine, destination).succeed()
    assert_moved(stack, held.machine, destination)


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
@pytest.mark.parametrize("phase", first_by_day(["Synchronized", "CopyingChain", "Replicating"]))
def test_deleted_while_it_runs_the_object_goes_when_all_is_cleaned(
    stack: Stack, machines: Machines, source: str, destination: str, phase: str
) -> None:
    held = hold(stack, machines(source, chain=1 if phase == "Replicating" else 3), destination, phase)

    held.migration.delete()

    wait_until(held.migration.is_gone, "the object is gone")
    held.assert_as_before()


@pytest.mark.nightly
def test_it_can_be_cancelled_while_the_snapshot_is_replicated(stack: Stack, machines: Machines) -> None:
    held = hold(stack, machines("file-a"), "loop-b", "CopyingChain")
    held.machine.write(offset=64 * MEBIBYTE, length=32 * MEBIBYTE, pattern=64)
    held.migration.patch({"bandwidth": LIMIT_BYTES})
    held.migration.wait_for_phase("Replicating")
    held.migration.patch({"bandwidth": SLOWEST})

    held.migration.patch({"cancel": True})

    held.migration.wait_for_phase("CleaningUp")
    # The merge of what was written meanwhile keeps to the bandwidth too.
    held.migration.patch({"bandwidth": None})
    held.migration.wait_for_phase("Cancelled")
    held.assert_as_before()


@pytest.mark.nightly
def test_the_disk_is_free_for_the_next_one_at_once(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    for _ in range(5):
        migration = stack.migrate(machine, "loop-b", cutover={"policy": "Manual"})
        migration.wait_for_phase("Synchronized")
        migration.patch({"cancel": True})
        migration.wait_for_phase("Cancelled")
    stack.migrate(machine, "loop-b").succeed()
    assert_moved(stack, machine, "loop-b")


def test_cancelled_before_it_starts_nothing_was_touched(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    before = machine.xml()
    migration = stack.migrate(machine, "file-b", suspend=True)
    wait_until(lambda: migration.phase() == "Pending", "it is held")
    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")
    assert machine.xml() == before


def test_a_suspended_one_starts_when_it_is_let_go(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    before = machine.xml()
    migration = stack.migrate(machine, "file-b", suspend=True)
    wait_until(lambda: migration.phase() == "Pending", "it is held")
    assert migration.condition("Accepted")["reason"] == "Suspended"
    assert migration.status()["estimate"]["bytes"] >= MEBIBYTE
    assert machine.xml() == before

    migration.patch({"suspend": False})

    migration.succeed()
    assert_moved(stack, machine, "file-b")


def test_one_that_was_handed_over_waits_for_a_storage_domain_that_is_away(
    stack: Stack, machines: Machines, scratch: Path
) -> None:
    machine = machines("file-a")
    away = make_domain(scratch, f"away-{uuid.uuid4().hex[:8]}", "file")
    stack.make_ready({away.name: away})
    stack.agent.kill()
    migration = stack.migrate(machine, away.name, backoffLimit=0)
    migration.wait_for_phase("Scheduled")
    unmounted = away.root.rename(scratch / "unmounted")
    stack.agent.start()
    wait_until(lambda: "is not ready" in migration.condition("Ready")["message"], "it says so", seconds=90)
    assert migration.phase() == "Scheduled"

    unmounted.rename(away.root)

    status = migration.succeed()
    assert status["attempts"] == 1
    machine.verify()
    stack.migrate(machine, "file-a").succeed()
    stack.control_plane.kubectl("delete", "storagedomain", away.name)


@pytest.mark.nightly
def test_a_manual_cutover_waits_for_automatic(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    held = hold(stack, machine, "loop-b", "Synchronized")
    status = held.migration.status()
    assert status["synchronizedTime"]
    assert held.migration.condition("Synchronized")["status"] == "True"
    assert "ready='yes'" in machine.xml()
    waits_for = held.migration.condition("Reconciling")["message"]
    assert waits_for.startswith("Waiting for spec.cutover.policy to become Automatic since 20"), waits_for

    held.migration.patch({"cutover": {"policy": "Automatic"}})

    status = held.migration.succeed()
    assert moment(status["pivotedTime"]) >= moment(status["synchronizedTime"])
    assert_moved(stack, machine, "loop-b")


def test_the_pivot_waits_for_its_window(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    window = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=20)
    migration = stack.migrate(machine, "loop-b", cutover={"notBefore": window.isoformat().replace("+00:00", "Z")})
    migration.wait_for_phase("Synchronized")
    assert datetime.now(UTC) < window
    assert "Waiting for spec.cutover.notBefore (20" in migration.condition("Reconciling")["message"]

    sooner = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    migration.patch({"cutover": {"notBefore": sooner.isoformat().replace("+00:00", "Z")}})

    status = migration.succeed()
    assert sooner <= moment(status["pivotedTime"]) < window
    assert_moved(stack, machine, "loop-b")


@pytest.mark.nightly
@pytest.mark.parametrize(("strategy", "phase"), first_by_day([("Snapshot", "CopyingChain"), ("Direct", "Replicating")]))
def test_the_bandwidth_is_kept(stack: Stack, machines: Machines, strategy: str, phase: str) -> None:
    machine = machines("file-a")
    machine.write(offset=64 * MEBIBYTE, length=20 * MEBIBYTE, pattern=64)
    migration = stack.migrate(machine, "loop-b", strategy=strategy, bandwidth=LIMIT_BYTES, cutover={"policy": "Manual"})
    migration.wait_for_phase(phase)
    began = time.monotonic()
    status = wait_until(
        lambda: next((s for s in [migration.status()] if s["progress"]["copiedBytes"] > 12 * MEBIBYTE), None),
        "half of it is copied",
    )
    assert status["progress"]["bytesPerSecond"] > 0
    assert status["progress"]["estimatedCompletionTime"]
    migration.wait_for_phase("Synchronized")
    rate = 25 * MEBIBYTE / (time.monotonic() - began)
    assert 0.3 * LIMIT_BYTES < rate < 1.25 * LIMIT_BYTES
    assert migration.status()["effective"]["bandwidthBytesPerSecond"] == LIMIT_BYTES
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()
    assert_moved(stack, machine, "loop-b")


@pytest.mark.parametrize(("phase", "chain"), first_by_day([("CopyingChain", 3), ("Replicating", 1)]))
@pytest.mark.parametrize("bandwidth", first_by_day(["1Gi", None]))
def test_the_bandwidth_can_be_changed_while_it_runs(
    stack: Stack, machines: Machines, phase: str, chain: int, bandwidth: str | None
) -> None:
    held = hold(stack, machines("file-a", chain=chain), "loop-b", phase)
    assert held.migration.status()["effective"]["bandwidthBytesPerSecond"] == 65536

    held.migration.patch({"bandwidth": bandwidth})

    status = held.migration.succeed(seconds=20)
    assert status["effective"].get("bandwidthBytesPerSecond") == (2**30 if bandwidth else None)
    assert_moved(stack, held.machine, "loop-b")


@pytest.mark.parametrize("phase", first_by_day(["CopyingChain", "Replicating", "Synchronized"]))
def test_a_deadline_ends_it_and_cleans_up(stack: Stack, machines: Machines, phase: str) -> None:
    held = hold(stack, machines("file-a"), "loop-b", phase, activeDeadlineSeconds=5)
    status = held.migration.wait_for_phase("Failed")
    assert status["failure"]["reason"] == "DeadlineExceeded"
    assert status["failure"]["phase"] == phase
    assert status["attempts"] == 1
    took = moment(status["completionTime"]) - moment(status["startTime"])
    assert took >= timedelta(seconds=5)
    held.assert_as_before()


@pytest.mark.parametrize("phase", first_by_day(["CopyingChain", "Replicating"]))
def test_one_that_copies_nothing_for_too_long_fails(stack: Stack, machines: Machines, phase: str) -> None:
    # QEMU copies a mebibyte and more at once, and then waits for as long as the limit says: far longer than this.
    held = hold(stack, machines("file-a"), "loop-b", phase, progressTimeoutSeconds=3)
    status = held.migration.wait_for_phase("Failed")
    assert status["failure"]["reason"] == "NoProgress"
    assert status["failure"]["phase"] == phase
    assert "spec.bandwidth" in status["failure"]["message"]
    held.assert_as_before()


@pytest.mark.nightly
def test_waiting_for_the_cutover_is_no_lack_of_progress(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "loop-b", cutover={"policy": "Manual"}, progressTimeoutSeconds=1)
    synchronized = migration.wait_for_phase("Synchronized")["synchronizedTime"]
    wait_until(lambda: datetime.now(UTC) > moment(synchronized) + timedelta(seconds=3), "the time-out is over")
    assert migration.phase() == "Synchronized"
    migration.patch({"cutover": {"policy": "Automatic"}})
    migration.succeed()


@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_retained_source_volumes_stay_as_they_are(
    stack: Stack, machines: Machines, source: str, destination: str
) -> None:
    machine = machines(source, chain=2)
    files = stack.domains[source].files()
    migration = stack.migrate(machine, destination, sourceVolumes="Retain")
    migration.succeed()
    assert_moved(stack, machine, destination)
    assert stack.domains[source].files() == files
    # The VM no longer needs them.
    machine.write(offset=60 * MEBIBYTE, length=MEBIBYTE, pattern=60)
    for volume in machine.volumes:
        assert str(volume) not in machine.xml()


def test_a_finished_one_goes_after_its_time_and_leaves_the_disk(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "loop-b", ttlSecondsAfterFinished=2)
    migration.succeed()
    wait_until(migration.is_gone, "its time is over")
    assert_moved(stack, machine, "loop-b")


@pytest.mark.nightly
def test_deleting_a_finished_one_touches_no_disk(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "loop-b")
    migration.succeed()
    files = stack.domains["loop-b"].files()
    migration.delete()
    wait_until(migration.is_gone, "the object is gone")
    assert stack.domains["loop-b"].files() == files
    assert_moved(stack, machine, "loop-b")


def test_one_that_is_suspended_while_it_runs_is_held_before_the_pivot(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    migration.patch({"suspend": True, "cutover": {"policy": "Automatic"}})
    wait_until(lambda: "spec.suspend to become false" in migration.condition("Ready")["message"], "it says so")
    assert migration.phase() == "Synchronized"

    migration.patch({"suspend": False})

    migration.succeed()
    assert_moved(stack, machine, "file-b")


def test_two_manifests_there_and_back_that_are_replayed_move_nothing_to_and_fro(
    stack: Stack, machines: Machines
) -> None:
    machine = machines("file-a")
    stack.migrate(machine, "file-b", source={"storageDomainName": "file-a"}).succeed()
    stack.migrate(machine, "file-a", source={"storageDomainName": "file-b"}).succeed()
    before = machine.xml()

    again = stack.migrate(machine, "file-a", source={"storageDomainName": "file-b"})

    again.succeed()
    assert again.condition("Succeeded")["reason"] == "NotOnSource"
    assert machine.xml() == before
    machine.verify()


@pytest.mark.nightly
def test_applied_again_it_stays_done(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    migration = stack.migrate(machine, "loop-b")
    done = migration.succeed()
    before = migration.get()
    manifest = {key: before[key] for key in ("apiVersion", "kind", "spec")}
    metadata = {"name": migration.name, "namespace": NAMESPACE}

    stack.apply({**manifest, "metadata": metadata})
    again = stack.migrate(machine, "loop-b")

    status = again.succeed()
    assert again.condition("Succeeded")["reason"] == "AlreadyAtDestination"
    assert again.condition("Ready")["status"] == "True"
    assert "pivotedTime" not in status
    assert migration.status() == done
    assert stack.domains["loop-b"].files() == [made_volume(migration.uid, 0)]
    assert_moved(stack, machine, "loop-b")


@pytest.mark.nightly
def test_the_conditions_are_those_that_gitops_tools_understand(stack: Stack, machines: Machines) -> None:
    held = hold(stack, machines("file-a"), "loop-b", "Synchronized")

    def conditions() -> dict[str, str]:
        assert all(one["observedGeneration"] for one in held.migration.status()["conditions"])
        return {one["type"]: one["status"] for one in held.migration.status()["conditions"]}

    active = {"Accepted": "True", "Succeeded": "Unknown", "Ready": "False", "Reconciling": "True", "Stalled": "False"}
    assert conditions() == {**active, "Synchronized": "True"}
    held.migration.patch({"cutover": {"policy": "Automatic"}})
    stack.control_plane.kubectl(
        "wait", "--for=condition=Ready", f"dm/{held.migration.name}", f"--namespace={NAMESPACE}", "--timeout=60s"
    )
    done = {"Succeeded": "True", "Ready": "True", "Reconciling": "False", "Stalled": "False"}
    assert conditions() == {"Accepted": "True", "Synchronized": "True", **done}
    assert held.migration.condition("Succeeded")["reason"] == "Migrated"
    found = held.migration.get()
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    wait_until(lambda: not held.migration.get()["metadata"].get("finalizers"), "nothing holds the object")


def test_kubectl_get_prints_the_columns(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    machine.write(offset=64 * MEBIBYTE, length=20 * MEBIBYTE, pattern=64)
    migration = stack.migrate(machine, "loop-b", bandwidth=LIMIT_BYTES)

    def columns(*options: str) -> dict[str, str]:
        header, line = stack.control_plane.kubectl(
            "get", "dm", migration.name, f"--namespace={NAMESPACE}", *options
        ).splitlines()
        places = [header.index(name) for name in header.split()]
        cells = [line[a:b].strip() for a, b in zip(places, [*places[1:], None], strict=True)]
        return dict(zip(header.split(), cells, strict=True))

    seen = set()
    migration.wait_for_phase("CopyingChain")
    while (shown := columns())["PHASE"] == "CopyingChain":
        seen.add(shown["PROGRESS"])
    assert len(seen) >= 3, "the figures move"
    migration.succeed()
    shown = columns("--output=wide")
    columns_of_all = ["NAME", "VM", "DISK", "FROM", "TO", "PHASE", "PROGRESS", "ALLOCATED", "REASON", "AGE"]
    assert list(shown) == [*columns_of_all, "NODE", "RATE", "ETA", "QUEUE", "RETAINED", "MESSAGE"]
    assert (shown["VM"], shown["DISK"], shown["FROM"], shown["TO"]) == (machine.name, "vda", "file-a", "loop-b")
    assert (shown["PHASE"], shown["PROGRESS"], shown["NODE"]) == ("Succeeded", "100%", NODE)
    assert (shown["REASON"], shown["RATE"]) == ("Migrated", "")
    assert shown["ALLOCATED"].endswith("Mi")


@pytest.mark.nightly
def test_progress_never_goes_back(stack: Stack, machines: Machines) -> None:
    machine = machines("loop-a", chain=3)
    migration = stack.migrate(machine, "file-b", bandwidth="8Mi")
    shown: list[tuple[int, int]] = []

    def is_done() -> bool:
        status = migration.status()
        if progress := status.get("progress"):
            shown.append((progress["copiedBytes"], progress["percent"]))
        return status.get("phase") == "Succeeded"

    wait_until(is_done, "it has succeeded", seconds=60)
    assert shown == sorted(shown)
    assert shown[-1][1] == 100


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "destination"), first_by_day(PAIRS))
def test_a_copy_that_fails_is_counted_and_the_last_failure_is_shown(
    stack: Stack, machines: Machines, source: str, destination: str
) -> None:
    held = hold(stack, machines(source, chain=3), destination, "Synchronized", backoffLimit=0)

    stack.host.virsh("blockjob", held.machine.name, "vda", "--abort")

    status = held.migration.wait_for_phase("Failed")
    assert status["failure"]["reason"] == "BlockJobFailed"
    assert status["attempts"] == 1
    held.assert_as_before()


def wait_until_synchronized_again(migration: Migration) -> None:
    """Waits for the second attempt."""
    wait_until(
        lambda: (status := migration.status())["attempts"] == 2 and status["phase"] == "Synchronized",
        "the second attempt is synchronized",
        seconds=60,
    )


def test_a_copy_that_fails_is_tried_again(stack: Stack, machines: Machines) -> None:
    held = hold(stack, machines("file-a", chain=2), "loop-b", "Synchronized", backoffLimit=1)

    stack.host.virsh("blockjob", held.machine.name, "vda", "--abort")

    wait_until_synchronized_again(held.migration)
    assert "failure" not in held.migration.status()
    held.migration.patch({"cutover": {"policy": "Automatic"}})
    status = held.migration.succeed()
    assert status["attempts"] == 2
    assert_moved(stack, held.machine, "loop-b")
    assert stack.domains["file-a"].files() == []


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_one_that_waits_for_its_next_attempt_can_be_ended(stack: Stack, machines: Machines, how: str) -> None:
    held = hold(stack, machines("file-a"), "loop-b", "Synchronized", backoffLimit=10)
    # The second wait is longer than the first.
    stack.host.virsh("blockjob", held.machine.name, "vda", "--abort")
    wait_until_synchronized_again(held.migration)
    stack.host.virsh("blockjob", held.machine.name, "vda", "--abort")
    says = "Attempt 3 follows within"
    message = wait_until(
        lambda: says in (found := held.migration.condition("Reconciling")["message"]) and found, "it says that it waits"
    )
    assert "This has lasted since 20" in message
    if how == "cancel":
        held.migration.patch({"cancel": True})
        held.migration.wait_for_phase("Cancelled")
    else:
        held.migration.delete()
        wait_until(held.migration.is_gone, "the object is gone")
    held.assert_as_before()


def test_attempts_are_bounded(stack: Stack, machines: Machines) -> None:
    held = hold(stack, machines("file-a"), "loop-b", "Synchronized", backoffLimit=1)
    stack.host.virsh("blockjob", held.machine.name, "vda", "--abort")
    wait_until_synchronized_again(held.migration)
    stack.host.virsh("blockjob", held.machine.name, "vda", "--abort")
    status = held.migration.wait_for_phase("Failed")
    assert (status["failure"]["reason"], status["attempts"]) == ("BlockJobFailed", 2)
    held.assert_as_before()
