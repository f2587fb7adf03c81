"""The devices of volume groups are found again by the next agent, and nothing that is there in their place stops it."""

from pathlib import Path

import pytest

from diskmigration.agent.storage.lvm import group_devices
from diskmigration.agent.storage.lvm.group_devices import FILE_NAME, GroupDevices

DEVICES = ("/dev/vdb", "/dev/mapper/mpatha")


def test_a_group_has_the_devices_that_were_recorded_last() -> None:
    known = GroupDevices()
    changes: list[dict[str, tuple[str, ...]]] = []
    known.on_change(lambda: changes.append(known.all()))
    assert known.of("vg0") == ()
    for devices in ((), DEVICES, DEVICES, DEVICES[:1], (), ()):
        known.put("vg0", devices)
        assert known.of("vg0") == devices
    assert changes == [{"vg0": DEVICES}, {"vg0": DEVICES[:1]}, {}]


def test_what_was_read_already_is_not_replaced_by_what_was_kept() -> None:
    known = GroupDevices()
    known.put("vg0", DEVICES)
    known.restore({"vg0": ("/dev/vdx",), "vg1": ("/dev/vdy",)})
    assert known.all() == {"vg0": DEVICES, "vg1": ("/dev/vdy",)}


def test_the_next_agent_reads_what_was_kept(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(group_devices.to_text({"vg1": DEVICES, "vg0": ("/dev/vdc",)}))
    assert group_devices.read(tmp_path) == {"vg0": ("/dev/vdc",), "vg1": DEVICES}


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"vg0": "/dev/vdb"}', "[" * 100_000])
def test_a_damaged_file_is_passed_over(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    assert group_devices.read(tmp_path) == {}
    assert FILE_NAME in str(caplog.records[0].__dict__)
