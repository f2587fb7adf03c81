from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from diskmigration.api.conditions import ConditionStatus
from diskmigration.controller import migration_status, unreachable
from diskmigration.controller.records import Migration
from tests.unit.controller.builders import EPOCH, migration, moment

LATER = EPOCH + timedelta(seconds=100)


def at_work(*, phase: str = "Replicating", ready: str = "Replicating", **said: Any) -> Migration:
    """A migration as its agent has left it."""
    values = {
        "Succeeded": "Unknown",
        "Ready": "False",
        "Reconciling": "True",
        "Stalled": "False",
        "Synchronized": "False",
    }
    status = {
        "observedGeneration": 1,
        "nodeName": "n1",
        "phase": phase,
        "startTime": moment(),
        "conditions": [
            {"type": kind, "status": value, "reason": ready, "lastTransitionTime": moment()}
            for kind, value in values.items()
        ],
        "source": {"storageDomainName": "a", "type": "File"},
        "destination": {"storageDomainName": "b", "type": "File"},
    }
    return migration(status=status, **said)


def read_back(before: Migration, written: dict[str, Any], **said: Any) -> Migration:
    """The migration once that was applied over what it said."""
    conditions = {
        one.type: one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in before.status.conditions
    }
    conditions |= {one["type"]: one for one in written["conditions"]}
    phase = before.status.phase.value if before.status.phase is not None else None
    status = {"observedGeneration": 1, "phase": phase, **written, "conditions": list(conditions.values())}
    return migration(status=status, **said)


def said(conditions: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in conditions}


@pytest.mark.parametrize("phase", ["Scheduled", "Replicating", "Merging"])
def test_what_nobody_knows_is_unknown_and_the_rest_stays(phase: str) -> None:
    written = migration_status.to_wire(unreachable.status(at_work(phase=phase), LATER))
    conditions = said(written["conditions"])
    assert conditions["Ready"] == conditions["Succeeded"] == ("Unknown", "AgentUnreachable")
    assert conditions["Reconciling"] == ("True", "AgentUnreachable"), "kstatus: InProgress"
    assert conditions["Accepted"] == ("True", "Scheduled")
    assert not {"progress", "failure", "completionTime", "attempts"} & set(written)
    assert written.get("phase") == ("Scheduled" if phase == "Scheduled" else None)
    assert "Synchronized" not in conditions


@pytest.mark.parametrize(
    ("said_of_it", "is_late", "words"),
    [
        ({}, False, "nobody knows how far it is"),
        ({"spec": {"activeDeadlineSeconds": 101}}, False, "nobody knows how far it is"),
        ({"spec": {"activeDeadlineSeconds": 100}}, True, "activeDeadlineSeconds (100) are over"),
        ({"deleted": True}, False, "The deletion waits for the agent on node n1"),
        ({"deleted": True, "spec": {"activeDeadlineSeconds": 1}}, True, "The deletion waits for the agent on node n1"),
    ],
)
def test_the_message_says_what_to_do_and_the_deadline_ends_the_waiting(
    said_of_it: dict[str, Any], is_late: bool, words: str
) -> None:
    written = migration_status.to_wire(unreachable.status(at_work(**said_of_it), LATER))
    (ready,) = [one for one in written["conditions"] if one["type"] == "Ready"]
    assert words in ready["message"]
    assert "delete the Node object" in ready["message"]
    states = said(written["conditions"])
    assert (states.get("Stalled") == ("True", "DeadlineExceeded")) == is_late
    assert states["Reconciling"][0] == ("False" if is_late else "True")


def test_one_that_its_agent_has_left_stalled_stays_so_and_does_not_reconcile_as_well() -> None:
    before = at_work()
    stalled = {"Stalled": "True", "Reconciling": "False"}
    conditions = [
        one.model_copy(update={"status": ConditionStatus(stalled.get(one.type, one.status))})
        for one in before.status.conditions
    ]
    left = replace(before, status=before.status.model_copy(update={"conditions": tuple(conditions)}))
    written = migration_status.to_wire(unreachable.status(left, LATER))
    states = said(written["conditions"])
    assert states["Reconciling"] == ("False", "AgentUnreachable")
    assert "Stalled" not in states, "it is its agent's"


def test_it_is_told_until_the_agent_has_written_over_it() -> None:
    before = at_work(spec={"activeDeadlineSeconds": 1})
    written = migration_status.to_wire(unreachable.status(before, LATER))
    told = read_back(before, written, spec={"activeDeadlineSeconds": 1})
    assert unreachable.is_told(told)
    assert not unreachable.is_told(before)
    again = unreachable.status(told, LATER + timedelta(seconds=9))
    assert not migration_status.differs(told.status, again, is_whole=False), "it is written once"
    back = unreachable.status_after(told, LATER + timedelta(seconds=9))
    assert not migration_status.differs(told.status, back, is_whole=False), "nor is it taken away"
    assert migration_status.to_wire(back) == written


def test_one_that_no_agent_has_taken_over_is_the_operators_to_correct() -> None:
    before = at_work(phase="Scheduled")
    told = read_back(before, migration_status.to_wire(unreachable.status(before, LATER)))
    back = migration_status.to_wire(unreachable.status_after(told, LATER))
    assert said(back["conditions"])["Ready"] == ("False", "Scheduled")
