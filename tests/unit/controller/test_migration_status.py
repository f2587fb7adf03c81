from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from diskmigration.api.disk_migration import DiskMigrationStatus, Estimate, Side
from diskmigration.api.errors import Reason
from diskmigration.api.storage_domain import StorageType
from diskmigration.controller import migration_status
from diskmigration.controller.placement_outcome import Placement, Refusal
from diskmigration.controller.records import Migration
from diskmigration.controller.throughput import Copied, Throughput
from tests.unit.controller.builders import EPOCH, migration

LATER = EPOCH + timedelta(seconds=100)
SOURCE = Side(storage_domain_name="a", type=StorageType.FILE)
PLACE = Placement("n1", ("k",), SOURCE, Side(storage_domain_name="b", type=StorageType.BLOCK), 1)
REFUSAL = Refusal(Reason.VIRTUAL_MACHINE_NOT_FOUND, "not there")
BUSY = Refusal(Reason.DISK_BUSY, "busy", sides=(PLACE.source, PLACE.destination))


def after(status: DiskMigrationStatus, **said: Any) -> Migration:
    """The migration as it is read back once that status is written."""
    return migration(status=migration_status.to_wire(status), **said)


ALL = [
    migration_status.held(migration(), PLACE, Throughput(), EPOCH),
    migration_status.held(migration(), REFUSAL, Throughput(), EPOCH),
    migration_status.refused(migration(), REFUSAL, EPOCH),
    migration_status.waiting(migration(), BUSY, EPOCH),
    migration_status.queued(migration(), PLACE, 3, EPOCH),
    migration_status.scheduled(migration(), PLACE, EPOCH),
    migration_status.failed(migration(), Reason.DISK_BUSY, "busy", EPOCH),
    migration_status.failed(migration(), Reason.DEADLINE_EXCEEDED, "late", EPOCH),
    migration_status.cancelled(migration(), EPOCH),
]


def states(status: DiskMigrationStatus) -> dict[str, str]:
    return {one.type: one.status.value for one in status.conditions}


@pytest.mark.parametrize("status", ALL)
def test_what_is_read_back_after_writing_is_not_written_again(status: DiskMigrationStatus) -> None:
    assert not migration_status.differs(after(status).status, status, is_whole=True)


@pytest.mark.parametrize("status", ALL)
def test_conditions_are_those_that_kstatus_understands(status: DiskMigrationStatus) -> None:
    assert status.phase is not None
    said = states(status)
    is_final = status.phase.is_final
    assert said["Reconciling"] == ("False" if is_final else "True")
    assert said["Stalled"] == ("True" if is_final and said["Succeeded"] == "False" else "False")
    assert said["Ready"] == ("True" if said["Succeeded"] == "True" else "False")
    assert (said["Succeeded"] == "Unknown") == (not is_final)
    assert (status.completion_time is not None) == is_final
    assert all(one.observed_generation == 1 for one in status.conditions)
    assert status.observed_generation == 1


@pytest.mark.parametrize("status", ALL)
def test_nothing_is_written_that_is_the_agents(status: DiskMigrationStatus) -> None:
    wire = migration_status.to_wire(status)
    assert not {"attempts", "progress", "allocatedBytes", "effective", "display", "synchronizedTime"} & set(wire)
    for side in ("source", "destination"):
        assert "volumes" not in wire.get(side, {})


def test_accepted_says_which_way_it_ended() -> None:
    assert states(migration_status.failed(migration(), Reason.DISK_BUSY, "busy", EPOCH))["Accepted"] == "False"
    waiting = after(migration_status.queued(migration(), PLACE, 1, EPOCH))
    assert states(migration_status.failed(waiting, Reason.DEADLINE_EXCEEDED, "late", LATER))["Accepted"] == "True"
    assert states(migration_status.cancelled(waiting, LATER))["Accepted"] == "True"


def test_the_time_starts_when_it_is_accepted_and_again_after_a_suspension() -> None:
    assert migration_status.refused(migration(), REFUSAL, EPOCH).start_time is None
    waiting = after(migration_status.queued(migration(), PLACE, 1, EPOCH))
    assert migration_status.scheduled(waiting, PLACE, LATER).start_time == EPOCH
    held = migration_status.held(waiting, REFUSAL, Throughput(), LATER)
    assert held.start_time is None
    assert migration_status.differs(waiting.status, held, is_whole=True)


@pytest.mark.parametrize(
    ("outcome", "reason", "words"),
    [
        (PLACE, "Suspended", "The agent on node n1 would copy 1 from the StorageDomain a to b. It is held"),
        (
            replace(PLACE, moves_nothing=True),
            "Suspended",
            "There is nothing to move: the disk is in the StorageDomain a.",
        ),
        (REFUSAL, "VirtualMachineNotFound", "not there It is held by spec.suspend"),
    ],
)
def test_one_that_is_suspended_tells_what_would_become_of_it(
    outcome: Placement | Refusal, reason: str, words: str
) -> None:
    held = migration_status.held(migration(), outcome, Throughput(), EPOCH)
    assert {one.reason for one in held.conditions} == {reason}
    assert all(one.message.startswith(words) for one in held.conditions)
    assert states(held)["Accepted"] == "Unknown"
    assert (held.estimate is None) == isinstance(outcome, Refusal)


def test_the_estimate_has_the_time_of_the_last_moves_and_is_not_written_for_each_byte() -> None:
    throughput = Throughput()
    throughput.note(("a", "b"), Copied(10 * 2**30, 100))
    held = migration_status.held(migration(), replace(PLACE, needed_bytes=2**30), throughput, EPOCH)
    assert held.estimate == Estimate(bytes=2**30, seconds=10)
    assert held.conditions[0].message.startswith(
        "The agent on node n1 would copy 1.0Gi from the StorageDomain a to b, which takes 10 s at the rate of the last"
    )
    more = migration_status.held(after(held), replace(PLACE, needed_bytes=2**30 + 2**20), throughput, LATER)
    assert not migration_status.differs(after(held).status, more, is_whole=True)
    much_more = migration_status.held(after(held), replace(PLACE, needed_bytes=2**31), throughput, LATER)
    assert much_more.estimate == Estimate(bytes=2**31, seconds=20)


def test_a_refusal_that_lasts_keeps_the_time_at_which_it_began() -> None:
    refused = after(migration_status.refused(migration(), REFUSAL, EPOCH))
    again = migration_status.refused(refused, Refusal(Reason.DESTINATION_FULL, "full"), LATER)
    assert again.conditions[0].last_transition_time == EPOCH
    assert migration_status.differs(refused.status, again, is_whole=True)


def test_one_that_was_accepted_keeps_its_start_and_its_sides_while_it_waits_or_is_suspended() -> None:
    waiting = after(
        migration_status.waiting(after(migration_status.queued(migration(), PLACE, 1, EPOCH)), REFUSAL, LATER)
    )
    assert waiting.status.start_time == EPOCH
    assert states(waiting.status)["Accepted"] == "False"
    held = migration_status.held(waiting, REFUSAL, Throughput(), LATER)
    for status in (waiting.status, held):
        assert (status.source, status.destination, status.queue_position) == (PLACE.source, PLACE.destination, None)
    assert after(held).was_accepted


def test_room_that_comes_and_goes_is_not_written_each_time() -> None:
    waiting = after(migration_status.queued(migration(), PLACE, 1, EPOCH))
    for number in range(3):
        refusal = Refusal(Reason.DESTINATION_FULL, f"{number} bytes are free.")
        waiting = after(migration_status.waiting(waiting, refusal, LATER))
    assert waiting.status.conditions[0].message.startswith("0 bytes are free. It keeps its turn")
    other = migration_status.waiting(waiting, Refusal(Reason.STORAGE_DOMAIN_NOT_READY, "no mount."), LATER)
    assert other.conditions[0].message.startswith("no mount. It keeps its turn")


def test_a_deadline_that_passes_tells_what_was_waited_for() -> None:
    waiting = after(
        migration_status.waiting(after(migration_status.queued(migration(), PLACE, 1, EPOCH)), REFUSAL, LATER)
    )
    assert migration_status.not_started_in_time(waiting, 60).endswith("It waited last for this: not there")
    assert "fewer migrations" in migration_status.not_started_in_time(
        after(migration_status.queued(migration(), PLACE, 1, EPOCH)), 60
    )


def test_a_position_goes_when_it_is_its_turn() -> None:
    waiting = after(migration_status.queued(migration(), PLACE, 7, EPOCH))
    assert "queuePosition" not in migration_status.to_wire(migration_status.scheduled(waiting, PLACE, LATER))
    assert migration_status.differs(waiting.status, migration_status.scheduled(waiting, PLACE, LATER), is_whole=True)


def test_until_the_agent_takes_over_everything_is_said_again() -> None:
    handed = migration_status.scheduled(migration(), PLACE, EPOCH)
    said_again = migration_status.delegated(after(handed), LATER)
    assert migration_status.to_wire(said_again) == migration_status.to_wire(handed)


def test_once_the_agent_has_taken_over_only_what_never_changes_is_said() -> None:
    taken = migration_status.to_wire(migration_status.scheduled(migration(), PLACE, EPOCH)) | {
        "phase": "Replicating",
        "attempts": 2,
        "observedGeneration": 1,
    }
    changed = migration(status=taken, generation=2)
    wanted = migration_status.delegated(changed, LATER)
    assert set(migration_status.to_wire(wanted)) == {"nodeName", "startTime", "source", "destination", "conditions"}
    assert states(wanted) == {"Accepted": "True"}
    assert wanted.conditions[0].observed_generation == 2
    assert migration_status.differs(changed.status, wanted, is_whole=False)
    assert not migration_status.differs(
        migration(status=taken | {"conditions": migration_status.to_wire(wanted)["conditions"]}).status,
        wanted,
        is_whole=False,
    )


def test_what_the_agent_waits_for_before_its_first_step_is_kept() -> None:
    handed = after(migration_status.scheduled(migration(), PLACE, EPOCH))
    told = handed.status.model_copy(
        update={
            "conditions": tuple(
                one.model_copy(update={"message": "Mount it."}) if one.type == "Ready" else one
                for one in handed.status.conditions
            )
        }
    )
    again = migration_status.delegated(after(told), LATER)
    messages = {one.type: one.message for one in again.conditions}
    assert messages["Ready"] == "Mount it."
    assert messages["Accepted"] == messages["Reconciling"] == "Handed to the agent on node n1."
    assert not migration_status.differs(after(told).status, again, is_whole=False)
