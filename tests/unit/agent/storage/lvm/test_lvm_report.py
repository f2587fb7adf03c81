import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage.lvm import lvm_report
from diskmigration.api.errors import MigrationError
from tests.unit.agent.storage.lvm.samples import GROUP, NO_VOLUMES, VOLUMES


def group(**changes: Any) -> lvm_report.GroupReport:
    return lvm_report.read_group(GROUP, "vg0").model_copy(update=changes)


def test_a_group_is_read() -> None:
    found = group()
    assert found.vg_uuid == "Nav2RB-qcdZ-2ejP-FXIT-90MV-I8F4-KuAfSL"
    assert (found.vg_size, found.vg_free, found.vg_extent_size) == (2143289344, 2139095040, 4 * 2**20)
    assert (found.lock_type, found.is_locked, found.vg_shared, found.vg_missing_pv_count) == ("none", False, False, 0)


@pytest.mark.parametrize(
    ("lock_type", "is_locked"), [("", False), ("none", False), ("sanlock", True), ("dlm", True), ("clvm", False)]
)
def test_a_lock_manager_makes_a_group_locked(lock_type: str, is_locked: bool) -> None:
    assert group(vg_lock_type=lock_type).is_locked == is_locked


def test_volumes_are_read() -> None:
    made, root = lvm_report.read_volumes(VOLUMES, "vg0")
    assert (made.lv_name, made.lv_size, made.lv_device_open, made.lv_active_locally) == (
        "dm-1-0",
        4 * 2**20,
        False,
        True,
    )
    assert made.ownership.is_ours
    assert made.ownership.migration == "8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11"
    assert (root.lv_tags, root.lv_device_open, root.ownership.is_ours) == ((), True, False)


def test_a_group_without_volumes_has_none() -> None:
    assert lvm_report.read_volumes(NO_VOLUMES, "vg0") == ()


def test_every_field_that_is_asked_for_is_in_the_samples() -> None:
    (row,) = json.loads(GROUP)["report"][0]["vg"]
    assert set(row) == set(lvm_report.GROUP_FIELDS)
    for row in json.loads(VOLUMES)["report"][0]["lv"]:
        assert set(row) == set(lvm_report.VOLUME_FIELDS)


def of_rows(*changes: dict[str, str]) -> str:
    """What `vgs` prints of a group with as many physical volumes."""
    document = json.loads(GROUP)
    (row,) = document["report"][0]["vg"]
    document["report"][0]["vg"] = [row | changed for changed in changes]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("names", "devices"),
    [
        (["/dev/vdb"], ("/dev/vdb",)),
        (["/dev/vdb", "/dev/mapper/mpatha"], ("/dev/vdb", "/dev/mapper/mpatha")),
        (["/dev/vdb", "[unknown]"], ()),
        (["/dev/vdb", "/dev/disk/a,b"], ()),
    ],
)
def test_a_group_has_the_devices_of_its_physical_volumes(names: list[str], devices: tuple[str, ...]) -> None:
    printed = of_rows(*({"pv_name": name} for name in names))
    assert lvm_report.read_group(printed, "vg0").devices == devices


def test_two_groups_of_one_name_are_not_guessed_at() -> None:
    with pytest.raises(MigrationError, match="reports 2 volume groups of the name vg0"):
        lvm_report.read_group(of_rows({}, {"vg_uuid": "another"}), "vg0")
    with pytest.raises(MigrationError, match="reports 0 volume groups of the name vg1"):
        lvm_report.read_group(GROUP, "vg1")


@pytest.mark.parametrize("printed", ["", "{", "{}", '{"report": [{"lv": [{"lv_name": "x"}]}]}', "  WARNING: x\n{}"])
def test_what_is_no_report_is_told(printed: str) -> None:
    with pytest.raises(MigrationError, match="lvm2's report of the volume group vg0 cannot be read"):
        lvm_report.read_volumes(printed, "vg0")


@given(size=st.integers(1, 2**50), extent=st.integers(9, 34).map(lambda power: 2**power))
def test_a_size_is_so_many_whole_extents_and_none_to_spare(size: int, extent: int) -> None:
    extents = group(vg_extent_size=extent).extents(size)
    assert (extents - 1) * extent < size <= extents * extent
