"""What is said of the volumes that may hold a guest's last writes."""

from pathlib import Path

import pytest

from diskmigration.agent.migration import last_writes
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.volume_names import volume_name
from diskmigration.api.disk_migration import DiskMigrationStatus, VolumeFormat
from tests.unit.agent.builders import EPOCH, UID, journal, storage_domain


def domain_with(root: Path, *names: str) -> OpenDomain:
    root.mkdir()
    for name in names:
        (root / name).touch()
    return OpenDomain(storage_domain(root.name), FileDriver(root.name, root))


def named(attempt: int, role: str) -> str:
    return volume_name(UID, attempt, role, VolumeFormat.QCOW2)


def test_the_volumes_of_a_migration_are_found_by_their_names_top_first(tmp_path: Path) -> None:
    source = domain_with(tmp_path / "old", "disk.qcow2", named(1, "snapshot"), "dm-another-1-snapshot.qcow2")
    destination = domain_with(
        tmp_path / "new", *(named(1, role) for role in ("0", "2", "10", "overlay")), named(2, "0"), f"dm-{UID}-notes"
    )
    found = last_writes.own_volumes(UID, (source, destination, source))
    assert [volume.name for volume in found] == [
        named(2, "0"),
        *(named(1, role) for role in ("overlay", "10", "2", "0", "snapshot")),
    ]


@pytest.mark.parametrize(
    ("role", "expected"), [("snapshot", "1-snapshot"), ("overlay", "1-overlay"), ("top", "1-1"), (None, None)]
)
def test_the_one_that_was_written_to_last_is_named_first(tmp_path: Path, role: str | None, expected: str) -> None:
    source = domain_with(tmp_path / "old", named(1, "snapshot"))
    destination = domain_with(tmp_path / "new", *(named(1, each) for each in ("0", "1", "overlay")))
    found = last_writes.own_volumes(UID, (source, destination))
    said = last_writes.advice(found, role)
    assert all(str(volume.path) in said for volume in found)
    if expected is None:
        assert "cannot be told" in said
    else:
        first = next(volume for volume in found if f"-{expected}." in volume.name)
        assert f"The guest wrote last to {first.path}." in said
        assert f"There are {first.path} " in said


def test_nothing_that_is_left_is_said_to_be_left() -> None:
    assert last_writes.advice((), "snapshot") == "Nothing is left of the migration."


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (journal(), "snapshot"),
        (journal(is_merged=True), None),
        (journal(has_pivoted=True), "overlay"),
        (journal(has_pivoted=True, is_merged=True), "top"),
        (journal(strategy="Direct"), None),
        (journal(strategy="Direct", has_pivoted=True), "top"),
        (journal(pivoting_to="/srv/san/dev/x"), None),
    ],
)
def test_the_journal_tells_where_the_guest_wrote_last(found: Journal, expected: str | None) -> None:
    assert last_writes.newest_by_journal(found) == expected


@pytest.mark.parametrize(
    ("phase", "has_pivoted", "roles", "written", "expected"),
    [
        ("Snapshotting", False, (), (), "snapshot"),
        ("CopyingChain", False, ("0", "overlay"), ("0", "snapshot"), "snapshot"),
        # Merged by an agent that was killed: the guest writes to the copy, and the overlay has nothing of its own.
        ("CopyingChain", False, ("0", "overlay"), ("0",), None),
        ("Replicating", False, ("0", "overlay"), ("0", "overlay", "snapshot"), None),
        ("Synchronized", False, ("0", "overlay"), ("0", "snapshot"), "snapshot"),
        ("Synchronized", False, ("0", "overlay"), ("overlay",), None),
        ("CopyingChain", False, ("0",), ("snapshot",), "snapshot"),
        ("CopyingChain", False, ("0",), ("0", "snapshot"), None),
        ("Pivoting", False, ("0", "overlay"), (), None),
        ("CleaningUp", False, ("0", "overlay"), (), None),
        ("Merging", True, ("0", "overlay"), ("0", "overlay"), None),
        ("CleaningUp", True, ("0",), ("0",), "top"),
    ],
)
def test_without_a_journal_the_status_and_the_volumes_tell_it(
    tmp_path: Path,
    phase: str,
    has_pivoted: bool,
    roles: tuple[str, ...],
    written: tuple[str, ...],
    expected: str | None,
) -> None:
    status = DiskMigrationStatus.from_wire({"phase": phase})
    if has_pivoted:
        status = status.model_copy(update={"pivoted_time": EPOCH})
    source = domain_with(tmp_path / "old", named(1, "snapshot"))
    left = last_writes.own_volumes(UID, (source, domain_with(tmp_path / "new", *(named(1, role) for role in roles))))

    def holds_data(volume: last_writes.OwnVolume) -> bool:
        return volume.own_name.role in written

    assert last_writes.newest_by_status(status, left, holds_data) == expected


def test_whether_a_volume_that_cannot_be_read_holds_data_is_not_known(tmp_path: Path) -> None:
    [volume] = last_writes.own_volumes(UID, [domain_with(tmp_path / "new", named(1, "overlay"))])
    volume.path.write_bytes(b"no image" * 100)
    assert last_writes.holds_data(volume, keep_on=lambda: True) is None
