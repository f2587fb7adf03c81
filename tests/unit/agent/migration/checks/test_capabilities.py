"""What libvirt and QEMU cannot do is refused with what to use instead, and nothing else is."""

from typing import Any

import pytest

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.migration.checks.capabilities import require_possible
from diskmigration.agent.migration.decision import DiskObservation, Step, next_step
from diskmigration.agent.migration.journal import Journal, Stage
from diskmigration.agent.storage import qemu_image
from diskmigration.api.disk_migration import CopyMode
from diskmigration.api.errors import MigrationError, Reason
from tests.unit.agent import builders
from tests.unit.agent.hypervisor import samples

TIB = 2**40


def disk(**changes: Any) -> DomainDisk:
    (found,) = domain_xml.parse(samples.domain(samples.CHAIN_OF_THREE)).disks
    return DomainDisk(**{**vars(found), **changes})


def planned(*, length: int = 1, strategy: str = "Snapshot", capacity: int = TIB, folder: str = "/srv") -> Journal:
    plan = builders.journal(strategy=strategy, length=length)

    def sized(volume: Any) -> Any:
        path = f"{folder}/{volume.name}"
        return volume and volume.model_copy(update={"capacity_bytes": capacity, "path": path})

    return plan.model_copy(
        update={
            "source": tuple(map(sized, plan.source)),
            "destination": tuple(map(sized, plan.destination)),
            "snapshot": plan.snapshot and sized(plan.snapshot),
            "overlay": plan.overlay and sized(plan.overlay),
        }
    )


def with_mode(plan: Journal, mode: CopyMode) -> Journal:
    spec = plan.migration.spec.model_copy(update={"copy_mode": mode})
    return plan.model_copy(update={"migration": plan.migration.model_copy(update={"spec": spec})})


def refusal(plan: Journal, found: DomainDisk | None = None) -> str:
    try:
        require_possible(plan, found or disk())
    except MigrationError as refused:
        if refused.reason is not Reason.DISK_NOT_SUPPORTED:
            raise
        return refused.message
    return ""


def test_an_ordinary_plan_is_possible() -> None:
    assert refusal(planned(length=3)) == ""


def test_libvirt_merges_no_snapshot_of_a_disk_with_copy_on_read() -> None:
    assert "strategy: Direct" in refusal(planned(), disk(copy_on_read=True))
    assert refusal(planned(strategy="Direct"), disk(copy_on_read=True)) == ""


def test_libvirt_takes_no_snapshot_of_a_chain_of_two_hundred() -> None:
    assert refusal(planned(length=199)) == ""
    assert "199" in refusal(planned(length=200))
    assert refusal(planned(length=200, strategy="Direct")) == ""


def test_a_chain_that_qemu_img_cannot_be_told_of_is_refused() -> None:
    assert refusal(planned(length=250, strategy="Direct", folder="/" + "d" * 300)) == ""
    assert "long paths" in refusal(planned(length=250, strategy="Direct", folder="/" + "d" * 3000))


@pytest.mark.parametrize(
    ("strategy", "length", "mode", "capacity", "is_possible"),
    [
        ("Snapshot", 1, CopyMode.WRITE_BLOCKING, 64 * TIB, True),
        ("Snapshot", 1, CopyMode.WRITE_BLOCKING, 65 * TIB, False),
        ("Snapshot", 1, CopyMode.AUTO, 65 * TIB, True),
        ("Snapshot", 1, CopyMode.BACKGROUND, 65 * TIB, True),
        ("Direct", 1, CopyMode.WRITE_BLOCKING, 65 * TIB, True),
        ("Direct", 2, CopyMode.WRITE_BLOCKING, 65 * TIB, False),
        ("Direct", 2, CopyMode.AUTO, 65 * TIB, True),
        ("Direct", 2, CopyMode.BACKGROUND, 2049 * TIB, False),
    ],
)
def test_the_size_of_a_disk(strategy: str, length: int, mode: CopyMode, capacity: int, is_possible: bool) -> None:
    plan = with_mode(planned(strategy=strategy, length=length, capacity=capacity), mode)
    assert (refusal(plan) == "") == is_possible


@pytest.mark.parametrize(("capacity", "switches"), [(64 * TIB, True), (65 * TIB, False)])
def test_auto_stays_in_the_background_where_it_cannot_switch(capacity: int, switches: bool) -> None:
    plan = with_mode(planned(capacity=capacity), CopyMode.AUTO).model_copy(update={"stage": Stage.COPIED})
    assert plan.snapshot is not None
    observation = DiskObservation(
        active_path=plan.snapshot.path,
        job=builders.copy_job(plan.mirror.path),
        cutover_is_open=True,
        falls_behind=True,
    )
    assert next_step(plan, observation) is (Step.SWITCH_COPY_MODE if switches else Step.AWAIT_SYNC)


def test_the_length_of_a_name_grows_with_the_chain_and_no_faster() -> None:
    lengths = [
        qemu_image.name_bytes(volume.image for volume in planned(length=length).source) for length in (50, 100, 150)
    ]
    assert lengths[2] - lengths[1] == pytest.approx(lengths[1] - lengths[0], rel=0.05)
