"""A VM at rest needs no other look before anything that a look goes by has changed."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from diskmigration.agent.extender.settled import LOOK_ANYWAY_SECONDS, Settled, Specs
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from tests.unit.agent.builders import GIB, MIB, storage_domain

LAYER = LayerStatistics("vda", 1, "/dev/source", 8 * MIB, GIB, 64 * MIB, 48 * MIB)
FOUND = DomainStatistics("uuid", 1, (LAYER,), state=(1, 1))


def specs(*kinds: str) -> Specs:
    return {kind: storage_domain(kind, kind).spec for kind in kinds}


@pytest.fixture
def settled() -> Settled:
    """The VM was looked at, at 100 s, and nothing was to be done."""
    settled = Settled()
    settled.note(FOUND, specs("loop"), at=100.0)
    return settled


def test_one_that_is_as_it_was_needs_none_for_a_while(settled: Settled) -> None:
    assert settled.includes(replace(FOUND), specs("loop"), at=100.0 + LOOK_ANYWAY_SECONDS - 1)
    assert not settled.includes(FOUND, specs("loop"), at=100.0 + LOOK_ANYWAY_SECONDS)


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
    settled: Settled, change: Callable[[LayerStatistics], LayerStatistics]
) -> None:
    assert not settled.includes(replace(FOUND, layers=(change(LAYER),)), specs("loop"), at=101.0)


def test_a_new_volume_another_run_or_another_state_needs_one(settled: Settled) -> None:
    for found in (replace(FOUND, layers=(LAYER, LAYER)), replace(FOUND, run=2), replace(FOUND, state=(3, 5))):
        assert not settled.includes(found, specs("loop"), at=101.0)


def test_a_storage_domain_that_is_new_or_changed_needs_one(settled: Settled) -> None:
    thin = specs("loop")["loop"].thin_provisioning
    raised = thin.model_copy(update={"high_watermark": thin.high_watermark + 1})
    changed = {"loop": specs("loop")["loop"].model_copy(update={"thin_provisioning": raised})}
    for now in (specs(), specs("loop", "file"), changed):
        assert not settled.includes(FOUND, now, at=101.0)


def test_one_that_is_not_known_or_forgotten_needs_one(settled: Settled) -> None:
    assert not settled.includes(replace(FOUND, uuid="other"), specs("loop"), at=101.0)
    settled.forget("uuid")
    settled.forget("uuid")
    assert not settled.includes(FOUND, specs("loop"), at=101.0)
