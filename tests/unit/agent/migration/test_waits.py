"""Nothing waits in silence: whatever a worker does or waits for, its status has a phase, a message and since when."""

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.extender.machine import VolumeStatus
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError, VirtualMachinePausedError
from diskmigration.agent.migration import activity, opening, step_runner
from diskmigration.agent.migration.activity import Activity, Operations, activity_of
from diskmigration.agent.migration.decision import STOPS, WAITS, Step
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.live_status import LiveStatus
from diskmigration.agent.migration.phases import phase_of, words_of
from diskmigration.agent.migration.progress import Meter
from diskmigration.agent.migration.recovery import recover
from diskmigration.agent.migration.run import Run
from diskmigration.agent.migration.steps.lost_track import LostProcess, follow
from diskmigration.agent.migration.turns import Turn, TurnTakenError
from diskmigration.agent.other_hosts import HostsUnknownError
from diskmigration.agent.storage.process_limit import Wait
from diskmigration.api import conditions
from diskmigration.api.disk_migration import ConditionType, DiskMigration, DiskMigrationStatus, Phase
from diskmigration.api.errors import MigrationError, Reason
from tests.unit.agent.builders import EPOCH, copy_job, journal, migration

NOW = datetime(2026, 1, 2, tzinfo=UTC)
WAITED = Wait(EPOCH, 2, is_idle=True)
DATED = re.compile(r" since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ(: [^.]+)?\.$")


def stub(**values: Any) -> Any:
    """Return an object that has what the code under test asks for."""
    return SimpleNamespace(**values)


class Hosts:
    """The other nodes, of which one does not answer."""

    def running(self, _uuid: str) -> str:
        raise HostsUnknownError("the agent of node-b does not answer")


class Driver:
    """A storage without volumes, which counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def size_bytes(self, name: str) -> int:
        self.asked += 1
        raise MigrationError(Reason.STORAGE_FAILED, f"There is no {name}.")

    def volumes(self) -> tuple[str, ...]:
        return ()


class World:
    """A run, its context and what its status showed; nothing of it waits."""

    def __init__(
        self,
        of: DiskMigration | None = None,
        found: Journal | None = None,
        *,
        wait: Wait | None = None,
        with_context: bool = True,
    ) -> None:
        self.shown: list[DiskMigrationStatus] = []
        self.driver = Driver()
        statuses: Any = SimpleNamespace(show=lambda _, status: self.shown.append(status))
        node: Any = SimpleNamespace(
            name="node-a",
            other_hosts=Hosts(),
            extender=SimpleNamespace(status_of=lambda _: VolumeStatus()),
        )
        self.run = Run(node, of or migration(), statuses)
        self.run.wake.set()
        operations = self.run.operations
        home = SimpleNamespace(name="nfs", driver=self.driver)
        self.context = stub(
            node=node,
            journal=found or journal(),
            domain=SimpleNamespace(uuid="u", has_left_node=lambda: False, is_active=lambda: False),
            source=home,
            destination=home,
            target="vda",
            step=Step.FINISH,
            merge=None,
            convergence=SimpleNamespace(falls_behind=False),
            doing=operations.doing,
            status=LiveStatus(
                Meter(), operations=operations, find_wait=lambda: wait, on_change=lambda: self.run.show(self.run.phase)
            ),
            is_running=lambda: True,
            cold_copy=stub(since=None, release=lambda: None),
            failpoint=lambda _: None,
            record=lambda **_: None,
        )
        if with_context:
            self.run.context = self.context

    def told(self) -> str:
        """The message of the last status, after a check that it tells all that it must."""
        status = self.shown[-1]
        assert status.phase is not None
        assert not status.phase.is_final
        [message] = {found.message for found in status.conditions if found.type != ConditionType.CONVERGING}
        stalled = conditions.find(status.conditions, ConditionType.STALLED)
        assert stalled is not None
        # Of what somebody must mend, the condition tells since when.
        is_stalled = conditions.is_true(status.conditions, ConditionType.STALLED)
        assert DATED.search(message) or (message and is_stalled and stalled.last_transition_time), message
        return message


@pytest.fixture(autouse=True)
def _no_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_runner, "_ACTS", dict.fromkeys(Step, lambda _: None))
    monkeypatch.setattr(step_runner, "has_internal_snapshot", lambda _: False)
    monkeypatch.setattr(step_runner, "apply_bandwidth", lambda *_: None)


def with_lost_qemu(world: World) -> None:
    lost = LostProcess("/srv/nfs/layer-0", "its QEMU")
    world.run.show(world.run.phase, wait=follow(world.context, lost, is_running=False))


def take(step: Step, *, with_job: bool = False) -> Callable[[World], None]:
    def act(world: World) -> None:
        if step is Step.AWAIT_END_OF_VM:
            with_lost_qemu(world)
            return
        job = copy_job(world.context.journal.mirror.path) if with_job else None
        step_runner.take_step(world.run, world.context, step, job, whereabouts="The VM runs on node-b.")

    return act


@pytest.mark.parametrize("with_job", [False, True])
@pytest.mark.parametrize("step", [step for step in Step if step not in STOPS])
def test_every_step_has_a_phase_a_message_and_since_when(step: Step, *, with_job: bool) -> None:
    world = World()
    take(step, with_job=with_job)(world)
    message = world.told()
    expected = world.run.phase if step in WAITS - {Step.AWAIT_SYNC, Step.AWAIT_CUTOVER} else phase_of(step, journal())
    assert world.shown[-1].phase is expected
    assert "{" not in message


@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
@pytest.mark.parametrize("step", [step for step in Step if step not in WAITS | STOPS])
def test_every_step_has_words_of_its_own(step: Step, strategy: str) -> None:
    def words(step: Step) -> str:
        return words_of(step, journal(strategy=strategy), migration().spec, now=NOW)

    assert words(step)
    assert words(step) not in [words(other) for other in Step if other not in WAITS | STOPS and other is not step]


def fail(error: Exception) -> Callable[[World], None]:
    def act(world: World) -> None:
        # It is not waited for.
        world.run.stopping.set()
        recover(world.run, error)

    return act


def last(world: World) -> None:
    """A step is in the midst of an operation, and another thread shows that."""
    with world.run.operations.doing("Extending dm-1"):
        world.run.show_what_lasts()


def next_attempt(world: World) -> None:
    world.run.stopping.set()
    opening.wait_for_next_attempt(world.run, "It failed.")


def open_one(world: World) -> None:
    opening._ends_or_waits(world.run, world.context.domain)


SUSPENDED = migration(spec={"suspend": True})
GIVEN_UP = journal(cancelled=True)
OTHERS: dict[str, tuple[dict[str, Any], Callable[[World], None], str]] = {
    "turn": ({}, fail(TurnTakenError(Turn("vda of DiskMigration vms/web-1", EPOCH))), "another disk of the same VM"),
    "no answer": ({}, fail(HypervisorUnavailableError("libvirtd does not answer.")), "libvirtd does not answer"),
    "paused": ({}, fail(VirtualMachinePausedError("Resume it.")), "Resume it."),
    "paused before": ({"with_context": False}, fail(VirtualMachinePausedError("Resume it.")), "Resume it."),
    "tried again": ({"found": GIVEN_UP}, fail(MigrationError(Reason.MERGE_FAILED, "lvm said: no")), "lvm said: no. "),
    "not ready": (
        {"with_context": False},
        fail(MigrationError(Reason.STORAGE_DOMAIN_NOT_READY, "Mount it.")),
        "Mount it.",
    ),
    "not found": (
        {"with_context": False},
        fail(MigrationError(Reason.STORAGE_DOMAIN_NOT_FOUND, "Make it.")),
        "Make it.",
    ),
    "suspended": ({"of": SUSPENDED, "with_context": False}, open_one, "spec.suspend"),
    "hosts before": ({"with_context": False}, open_one, "node-b does not answer"),
    "next attempt": ({"with_context": False}, next_attempt, "Attempt 2 follows"),
    "turn of qemu-img": ({"wait": WAITED}, lambda world: world.context.status.note_wait(), "--qemu-img-processes"),
    "operation": ({}, last, "Extending dm-1"),
    "operation before": ({"with_context": False}, last, "Extending dm-1"),
    "merge": ({}, lambda world: world.context.status.show_merge("Merging a into b", since=EPOCH, share=0.5), "50 %"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_else_is_waited_for_has_a_phase_a_message_and_since_when(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "TELL_SECONDS", 0.0)
    made, act, words = OTHERS[name]
    world = World(**made)
    act(world)
    assert words in world.told()


@pytest.mark.parametrize(
    ("cutover", "words"),
    [
        ({"policy": "Manual"}, "Waiting for spec.cutover.policy to become Automatic"),
        ({"policy": "Manual", "notBefore": "2026-01-03T00:00:00Z"}, "spec.cutover.policy to become Automatic"),
        ({"notBefore": "2026-01-03T00:00:00Z"}, "Waiting for spec.cutover.notBefore (2026-01-03T00:00:00Z)"),
        ({}, "Waiting for the cutover"),
    ],
)
def test_the_cutover_that_is_waited_for_is_named(cutover: dict[str, str], words: str) -> None:
    asked = migration(spec={"cutover": cutover}).spec
    assert words in words_of(Step.AWAIT_CUTOVER, journal(), asked, now=NOW)


def test_one_that_is_suspended_before_its_pivot_says_so() -> None:
    asked = migration(spec={"suspend": True, "cutover": {"policy": "Manual"}}).spec
    assert words_of(Step.AWAIT_CUTOVER, journal(), asked, now=NOW) == "Waiting for spec.suspend to become false"


def test_a_wait_that_goes_on_keeps_its_begin_and_another_has_its_own() -> None:
    world = World(with_context=False)
    world.run.reporter.message = Activity("It waits for a.", EPOCH).message
    world.run.show(Phase.SCHEDULED, wait="It waits for a.")
    assert world.told().endswith("since 2026-01-01T00:00:00Z.")
    world.run.show(Phase.SCHEDULED, wait="It waits for b.")
    assert "2026-01-01" not in world.told()


@pytest.mark.parametrize("what", ["It waits for a.", "Copying a to b"])
@pytest.mark.parametrize("amount", ["", "50 %"])
def test_the_begin_of_what_an_agent_before_this_one_told_is_kept(what: str, amount: str) -> None:
    told = Activity(what, EPOCH, amount).message
    assert activity_of(what, shown=told, now=NOW) == Activity(what, EPOCH)


@pytest.mark.parametrize(
    "shown",
    ["", "Copying", "Copying a to b", "Copying a to b.", "Copying a to bc since 2026-01-01T00:00:00Z."]
    + [f"Copying a to b since {date}." for date in ("2026-99-99T00:00:00Z", "yesterday", "2026-01-01")],
)
def test_a_message_that_tells_no_begin_of_it_gives_none(shown: str) -> None:
    assert activity_of("Copying a to b", shown=shown, now=NOW) == Activity("Copying a to b", NOW)


def test_an_operation_is_told_once_it_lasts_and_the_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(activity, "time", clock)
    operations = Operations()
    with operations.doing("Removing volumes"):
        clock.monotonic = lambda: 10.0
        with operations.doing("Removing a"):
            found = [operations.lasting(now=now) for now in (0.0, 2.0, 11.0, 12.0)]
        assert operations.lasting(now=100.0) == found[1]
    assert [each.what if each is not None else None for each in found] == [
        None,
        "Removing volumes",
        "Removing volumes",
        "Removing a",
    ]
    assert operations.lasting(now=100.0) is None


def test_what_lasts_is_shown_without_a_question_to_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "TELL_SECONDS", 0.0)
    world = World()
    asked = world.driver.asked
    last(world)
    assert world.driver.asked == asked
    assert len(world.shown) == 1
    # The worker's own status has the figures, and says the same no second time.
    world.run.show(Phase.REPLICATING)
    assert world.driver.asked > asked


def test_a_worker_that_hangs_while_it_asks_the_storage_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "TELL_SECONDS", 0.0)
    world = World()
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_name: str) -> int:
        hangs.set()
        goes_on.wait()
        return 0

    monkeypatch.setattr(world.driver, "size_bytes", hang)
    monkeypatch.setattr(world.driver, "allocated_bytes", lambda _: 0, raising=False)
    worker = threading.Thread(target=take(Step.COPY_CHAIN), args=(world,), daemon=True)
    worker.start()
    hangs.wait()
    world.run.show_what_lasts()
    goes_on.set()
    worker.join()
    assert "Asking the storage" in {c.message for c in world.shown[0].conditions}.pop()
    assert world.shown[0].phase is Phase.COPYING_CHAIN
    assert "Copying" in world.told()


@pytest.mark.parametrize("with_context", [True, False])
def test_an_operation_takes_the_place_of_a_wait_that_came_before_it_alone(
    monkeypatch: pytest.MonkeyPatch, *, with_context: bool
) -> None:
    monkeypatch.setattr(activity, "TELL_SECONDS", 0.0)
    world = World(with_context=with_context)
    with world.run.operations.doing("Checking whether vda can be moved"):
        world.run.show(Phase.SCHEDULED, wait="It waits for others.")
        world.run.show_what_lasts()
        assert world.told().startswith("It waits for others.")
    last(world)
    assert world.told().startswith("Extending dm-1")


def test_nothing_is_told_of_what_lasts_behind_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "TELL_SECONDS", 0.0)
    world = World()
    world.run.end(Phase.SUCCEEDED, Reason.MIGRATED, "It ended.")
    last(world)
    assert [status.phase for status in world.shown] == [Phase.SUCCEEDED]


def test_what_has_failed_is_told_since_its_first_failure() -> None:
    world = World()
    status = world.context.status
    status.note_failure(MigrationError(Reason.MERGE_FAILED, "It failed."))
    first = status.activity()
    status._trouble_since = first.since - timedelta(hours=1)
    status.note_failure(MigrationError(Reason.MERGE_FAILED, "It failed otherwise."))
    assert status.activity() == Activity("It failed otherwise.", first.since - timedelta(hours=1))
