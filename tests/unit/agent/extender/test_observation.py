"""When a VM is observed, and when the observation has to ask libvirt."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from diskmigration.agent.extender.observation import (
    OBSERVE_ANYWAY_SECONDS,
    IdleObservation,
    Observation,
    Polled,
    PollQueue,
    Specs,
    is_enough,
)
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from tests.unit.agent.builders import GIB, MIB, storage_domain

RUNNING, PAUSED_BY_USER, PAUSED_BY_ERROR = (1, 1), (3, 1), (3, 5)


def observation(state: tuple[int, int] | None = RUNNING) -> Observation:
    return Observation(DomainDescription("vm", "vm", ()), DomainStatistics("vm", 1, (), state=state), 10.0, 10.5)


@pytest.mark.parametrize(
    ("seen", "observed_at", "expected"),
    [
        (observation(), None, True),
        (observation(), 9.9, True),
        (observation(PAUSED_BY_USER), 9.9, True),
        (observation(), 10.0, False),
        (observation(), 10.2, False),
        (observation(PAUSED_BY_ERROR), None, False),
        (observation(None), None, False),
        (None, None, False),
    ],
    ids=["first", "newer", "paused by the user", "as old", "older", "paused by an error", "state unknown", "nothing"],
)
def test_what_was_seen_is_enough_if_it_is_newer_than_the_last_observation(
    seen: Observation | None, observed_at: float | None, expected: bool
) -> None:
    assert is_enough(seen, observed_at=observed_at) is expected


def test_the_newest_poll_is_taken_and_the_others_are_dropped() -> None:
    polls = PollQueue()
    for number in range(3):
        polls.put(Polled((), number, number))
    assert polls.take(timeout=1) == Polled((), 2, 2)
    assert polls.take(timeout=0) is None


LAYER = LayerStatistics("vda", 1, "/dev/source", 8 * MIB, GIB, 64 * MIB, 48 * MIB)
FOUND = DomainStatistics("uuid", 1, (LAYER,), state=(1, 1))


def specs(*kinds: str) -> Specs:
    return {kind: storage_domain(kind, kind).spec for kind in kinds}


@pytest.fixture
def idle() -> IdleObservation:
    """The VM was observed at 100 s, and nothing was to be done."""
    return IdleObservation(FOUND, specs("loop"), at=100.0)


def test_an_idle_vm_needs_no_observation_for_a_while(idle: IdleObservation) -> None:
    assert idle.still_holds(replace(FOUND), specs("loop"), at=100.0 + OBSERVE_ANYWAY_SECONDS - 1)
    assert not idle.still_holds(FOUND, specs("loop"), at=100.0 + OBSERVE_ANYWAY_SECONDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: replace(layer, allocated_bytes=9 * MIB),
        lambda layer: replace(layer, physical_bytes=96 * MIB),
        lambda layer: replace(layer, threshold_bytes=0),
        lambda layer: replace(layer, path="/dev/other"),
    ],
    ids=["written", "grown", "threshold-passed", "moved"],
)
def test_any_change_of_a_volume_needs_one(
    idle: IdleObservation, change: Callable[[LayerStatistics], LayerStatistics]
) -> None:
    assert not idle.still_holds(replace(FOUND, layers=(change(LAYER),)), specs("loop"), at=101.0)


def test_a_new_volume_another_run_or_another_state_needs_one(idle: IdleObservation) -> None:
    for found in (replace(FOUND, layers=(LAYER, LAYER)), replace(FOUND, run=2), replace(FOUND, state=(3, 5))):
        assert not idle.still_holds(found, specs("loop"), at=101.0)


def test_a_storage_domain_that_is_new_or_changed_needs_one(idle: IdleObservation) -> None:
    thin = specs("loop")["loop"].thin_provisioning
    raised = thin.model_copy(update={"high_watermark": thin.high_watermark + 1})
    changed = {"loop": specs("loop")["loop"].model_copy(update={"thin_provisioning": raised})}
    for now in (specs(), specs("loop", "file"), changed):
        assert not idle.still_holds(FOUND, now, at=101.0)
