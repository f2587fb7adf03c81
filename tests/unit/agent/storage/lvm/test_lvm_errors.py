"""Answers as lvm2 2.03.16 gave them on a real group; those of lvmlockd are from lvm2's source."""

from datetime import UTC, datetime

import pytest

from diskmigration.agent.storage.driver import NoRoomError, VolumeInUseError
from diskmigration.agent.storage.lvm import lvm_errors
from diskmigration.api.errors import RETRYABLE, Reason

MISSING = """  WARNING: Couldn't find device with uuid fkamhh-y351-SgSm-moeu-exFo-mxMm-ZdWjS9.
  WARNING: VG vg0 is missing PV fkamhh-y351-SgSm-moeu-exFo-mxMm-ZdWjS9 (last written to /dev/vdd).
"""


@pytest.mark.parametrize(
    "answer",
    [
        '  Volume group "vg0" has insufficient free space (510 extents): 25600 required.\n',
        "  Insufficient free space: 25599 extents needed, but only 510 available\n",
        "  Insufficient suitable allocatable extents for logical volume x: 3 more required\n",
        MISSING + "  Insufficient free space: 25599 extents needed, but only 510 available\n",
    ],
)
def test_a_full_group_is_told_apart(answer: str) -> None:
    error = lvm_errors.failure(answer, doing="extending x", line=["lvextend"])
    assert isinstance(error, NoRoomError)
    assert "vgextend" in error.message
    assert answer.split("\n")[-2].strip().removesuffix(".") in error.message
    assert error.message.startswith("While extending x, lvextend answered: ")


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ('  Volume group "vg9" not found\n  Cannot process volume group vg9\n', "see `vgs`"),
        (MISSING + "  Cannot change VG vg0 while PVs are missing.\n", "bring its device back"),
        (
            MISSING + "  Refusing activation of partial LV vg0/big.  Use '--activationmode partial' to override.\n",
            "pvs",
        ),
        ("  /run/lock/lvm/V_vg0: flock failed: Resource temporarily unavailable\n  Can't get lock for vg0.\n", "lsof"),
        ("  Logical volume vg0/dm-1-0 in use.\n", "who with `lsof`"),
        (MISSING + "  Logical volume vg0/dm-1-0 in use.\n", "who with `lsof`"),
        ("  LV locked by other host: vg0/x\n  Failed to lock logical volume vg0/x.\n", "Another node"),
        ("  VG vg0 lock failed: lockspace is inactive\n", "lockstart"),
        ("  Cannot access VG vg0 due to failed lock.\n", "lockstart"),
        ("  VG vg0 lock failed: held by other host.\n  Cannot access VG vg0 due to failed lock.\n", "tried again"),
        ("  LV is already locked with incompatible mode: vg0/x\n", "lvchange --activate ey"),
        ("  Using lock type requires lvmlockd.\n", "lvmlockd"),
        ("  Cannot access VG vg0 with system ID a with local system ID b.\n", "lvmsystemid"),
        ("  Volume group vg0 is exported\n", "vgimport"),
        ("  /dev/mapper/control: open failed: No such device\n", "dm_mod"),
        ("  device-mapper: reload ioctl on  (253:0) failed: Invalid argument\n", "dmesg"),
    ],
)
def test_what_is_known_comes_with_what_to_do(answer: str, advice: str) -> None:
    error = lvm_errors.failure(answer, doing="d", line=["c"])
    assert error.reason is Reason.STORAGE_FAILED
    assert error.reason in RETRYABLE
    assert not isinstance(error, NoRoomError)
    assert advice in error.message


@pytest.mark.parametrize("name", ["lvmlockd", "lockspace"])
@pytest.mark.parametrize("answer", ['  Volume group "{}" not found', "  Logical volume {}/x in use."])
def test_a_group_that_is_named_like_a_failure_is_none(name: str, answer: str) -> None:
    line = ["lvremove", "--yes", "--", f"{name}/x"]
    named, plain = (
        lvm_errors.failure(answer.format(group), doing="d", line=[*line[:-1], f"{group}/x"]).message
        for group in (name, "vg0")
    )
    assert named == plain.replace("vg0", name)


@pytest.mark.parametrize("answer", ["  Something new.\n", ""])
def test_what_is_not_known_is_handed_on(answer: str) -> None:
    said = answer.strip().removesuffix(".") or "nothing"
    assert lvm_errors.failure(answer, doing="d", line=["c"]).message == f"While d, c answered: {said}."


def test_a_volume_that_is_as_large_already_is_no_failure() -> None:
    assert lvm_errors.says_size_is_there("  New size (1 extents) matches existing size (1 extents).\n")
    assert lvm_errors.says_size_is_there("  New size given (1 extents) not larger than existing size (3 extents)\n")
    assert not lvm_errors.says_size_is_there(
        "  Insufficient free space: 25599 extents needed, but only 510 available\n"
    )


def test_a_command_that_does_not_end_is_told_with_the_usual_causes() -> None:
    message = lvm_errors.unanswered(doing="d", command="lvs", seconds=120).message
    for word in ("lock", "device", "hostIPC", "/run/udev", "120 s"):
        assert word in message
    assert "since" not in message


def test_a_command_that_has_not_ended_yet_is_told_with_since_when() -> None:
    since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    message = lvm_errors.unanswered(doing="d", command="lvs", seconds=60, since=since).message
    assert "has not answered since 2026-01-02T03:04:05Z" in message


@pytest.mark.parametrize(
    ("answer", "is_missing"),
    [
        ("  Device not found for /dev/vdx.\n", True),
        ("  WARNING: Couldn't find device with uuid GPp1N1-1K8w-e1Bx-4Yzl-5Wzw-8gkP-uUBiGz.\n", True),
        ("  WARNING: VG vg0 is missing PV GPp1N1-1K8w-e1Bx-4Yzl-5Wzw-8gkP-uUBiGz (last written to /dev/vdb).\n", True),
        ("  Cannot change VG vg0 while PVs are missing.\n", True),
        ('  Volume group "vg0" not found\n  Cannot process volume group vg0\n', True),
        ('  Failed to find logical volume "vg0/v"\n', False),
        ("  Insufficient free space: 25 extents needed, but only 0 available\n", False),
        ("", False),
    ],
)
def test_an_answer_tells_that_a_device_was_not_read(answer: str, is_missing: bool) -> None:
    assert lvm_errors.says_device_is_missing(answer) == is_missing


def test_a_volume_that_another_node_has_locked_is_in_use() -> None:
    answer = "  LV locked by other host: vg0/x\n  Failed to lock logical volume vg0/x.\n"
    assert isinstance(lvm_errors.failure(answer, doing="d", line=["lvremove", "--", "vg0/x"]), VolumeInUseError)
    assert not isinstance(lvm_errors.failure("  x\n", doing="d", line=["lvremove", "--", "vg0/x"]), VolumeInUseError)


@pytest.mark.parametrize(
    ("answer", "is_unlocked"),
    [
        ("  Reading VG vg0 without a lock.\n", True),
        ("  VG vg0 lock skipped: lock start in progress\n  Reading VG vg0 without a lock.\n", True),
        ("  VG vg0 lock skipped: held by other host.\n  Reading VG vg0 without a lock.\n", False),
        ("", False),
    ],
)
def test_a_report_tells_that_the_group_has_no_locks_here(answer: str, is_unlocked: bool) -> None:
    assert lvm_errors.says_unlocked(answer) == is_unlocked
