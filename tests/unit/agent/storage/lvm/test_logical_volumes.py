"""A volume is known for ours, so that lvm2 need not be asked before it is extended, as long as it is there."""

import pytest

from diskmigration.agent.storage.lvm import lvm_report
from diskmigration.agent.storage.lvm.logical_volumes import LogicalVolumes
from diskmigration.agent.storage.lvm.sysfs import ActiveVolume
from diskmigration.api.errors import MigrationError
from tests.unit.agent.storage.lvm.samples import VOLUMES

OURS, OTHERS = lvm_report.read_volumes(VOLUMES, "vg0")


def active(found: lvm_report.VolumeReport) -> ActiveVolume:
    return ActiveVolume("vg0", found.lv_name, found.lv_uuid.replace("-", ""), found.lv_size)


def test_one_with_our_tag_is_known_until_it_is_removed() -> None:
    volumes = LogicalVolumes("vg0")
    assert not volumes.is_known_ours(active(OURS))
    volumes.require_ours(OURS)
    assert volumes.is_known_ours(active(OURS))
    volumes.forget(OURS)
    assert not volumes.is_known_ours(active(OURS))
    # It may be asked to go twice.
    volumes.forget(OURS)


def test_one_without_our_tag_is_not() -> None:
    volumes = LogicalVolumes("vg0")
    with pytest.raises(MigrationError, match="was not handed over"):
        volumes.require_ours(OTHERS)
    assert not volumes.is_known_ours(active(OTHERS))


def test_those_that_were_removed_elsewhere_are_forgotten() -> None:
    volumes = LogicalVolumes("vg0")
    volumes.note_ours(active(OURS))
    volumes.note_ours(active(OTHERS))
    volumes.forget_all_but([OTHERS])
    assert not volumes.is_known_ours(active(OURS))
    assert volumes.is_known_ours(active(OTHERS))
