from typing import Any

import pytest

from diskmigration.agent.storage.driver import Owner, VolumeInUseError
from diskmigration.agent.storage.lvm import lvm_report, preconditions, tags
from diskmigration.api.errors import MigrationError, Reason
from tests.unit.agent.storage.lvm.samples import GROUP, VOLUMES

OWNER = Owner(migration="8f2d6f0e-7d0b-4a55-9c39-2f9e1d8b7a11", virtual_machine="vm", node="n")


def group(**changes: Any) -> lvm_report.GroupReport:
    return lvm_report.read_group(GROUP, "vg0").model_copy(update=changes)


def volume(**changes: Any) -> lvm_report.VolumeReport:
    return lvm_report.read_volumes(VOLUMES, "vg0")[0].model_copy(update=changes)


@pytest.mark.parametrize(
    ("changes", "has_daemon", "words"),
    [
        ({"vg_missing_pv_count": 2}, True, "misses 2 of its physical volumes"),
        ({"vg_exported": True}, True, "vgimport vg0"),
        ({"vg_permissions": "read-only"}, True, "is read-only"),
        ({"vg_shared": True, "vg_lock_type": "clvm"}, True, "Use sanlock or dlm"),
        ({"vg_shared": True, "vg_lock_type": "sanlock"}, False, "Start lvmlockd"),
        ({"vg_shared": True, "vg_lock_type": "sanlock", "is_unlocked": True}, True, "`vgchange --lockstart vg0`"),
    ],
)
def test_a_group_that_cannot_be_used_says_why(changes: dict[str, Any], has_daemon: bool, words: str) -> None:
    with pytest.raises(MigrationError, match=words) as refused:
        preconditions.require_usable(group(**changes), has_lock_daemon=has_daemon)
    assert refused.value.reason is Reason.STORAGE_FAILED
    assert "vg0" in refused.value.message


def test_a_local_group_needs_no_lock_daemon_and_a_shared_one_is_fine_with_it() -> None:
    preconditions.require_usable(group(), has_lock_daemon=False)
    preconditions.require_usable(group(vg_shared=True, vg_lock_type="dlm"), has_lock_daemon=True)


@pytest.mark.parametrize("found", [(), ("backup",), ("diskmigration.dev/migration=x",)])
def test_a_volume_without_our_tag_is_not_ours_and_the_message_has_the_command(found: tuple[str, ...]) -> None:
    with pytest.raises(MigrationError, match=r"`lvchange --addtag diskmigration\.dev vg0/dm-1-0`") as refused:
        preconditions.require_ours(volume(lv_tags=found), "vg0")
    assert refused.value.reason is Reason.VOLUME_NOT_HANDED_OVER


@pytest.mark.parametrize(
    "found",
    [
        (),
        ("diskmigration.dev",),
        ("diskmigration.dev", "diskmigration.dev/migration=another"),
        (f"diskmigration.dev/migration={OWNER.migration}",),
        (*tags.of_new_volume(OWNER), tags.REMOVING),
    ],
)
def test_only_what_the_migration_made_may_be_formatted(found: tuple[str, ...]) -> None:
    with pytest.raises(MigrationError, match="It was not touched") as refused:
        preconditions.require_made_for(volume(lv_tags=found), "vg0", OWNER)
    assert all(tag in refused.value.message for tag in found)
    preconditions.require_made_for(volume(lv_tags=tags.of_new_volume(OWNER)), "vg0", OWNER)


@pytest.mark.parametrize("changes", [{"lv_device_open": True}, {"lv_device_open": None}])
def test_what_is_in_use_or_may_be_is_not_removed(changes: dict[str, Any]) -> None:
    with pytest.raises(MigrationError, match="so it was not removed"):
        preconditions.require_closed(volume(**changes), "vg0")
    preconditions.require_closed(volume(), "vg0")
    preconditions.require_closed(volume(lv_device_open=None, lv_active_locally=False), "vg0")


def test_a_volume_with_snapshots_is_not_removed() -> None:
    found = volume()
    snapshot = volume(lv_name="before", origin=found.lv_name)
    preconditions.require_no_snapshots(found, [found, volume(lv_name="other", origin="another")], "vg0")
    with pytest.raises(VolumeInUseError, match=r"vg0/dm-1-0 has LVM snapshots \(before\)"):
        preconditions.require_no_snapshots(found, [found, snapshot], "vg0")
    with pytest.raises(VolumeInUseError, match="hidden ones"):
        preconditions.require_no_snapshots(volume(lv_attr="owi-a-s---"), [found], "vg0")


@pytest.mark.parametrize(("kind", "may_hold_image"), [("-", True), ("o", True), ("s", True), ("V", True), ("t", False)])
def test_a_pool_holds_no_image(kind: str, may_hold_image: bool) -> None:
    assert volume(lv_attr=f"{kind}wi-a-----").may_hold_image is may_hold_image
