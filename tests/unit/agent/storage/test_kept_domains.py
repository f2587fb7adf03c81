"""What an agent leaves on the host for the next one."""

from pathlib import Path

import pytest

from diskmigration.agent.storage import host_file
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.agent.storage.kept_domains import FILE_NAME, KeptDomains, from_text, read, to_text
from diskmigration.api.storage_domain import StorageDomain

LABELS = {"rack": "1"}


def domain(name: str, path: str = "/srv/a", kind: str = "loop", **spec: object) -> StorageDomain:
    return StorageDomain.from_wire(
        {"metadata": {"name": name, "uid": f"uid-of-{name}"}, "spec": {kind: {"path": path}, **spec}}
    )


def knowing(*domains: StorageDomain, deleted: str = "") -> StorageDomains:
    known = StorageDomains(LABELS)
    for each in domains:
        known.put(each)
    if deleted:
        known.remove(deleted, f"uid-of-{deleted}")
    return known


@pytest.mark.parametrize("deleted", ["", "a"])
def test_the_next_agent_knows_the_same(tmp_path: Path, deleted: str) -> None:
    before = knowing(
        domain("a", "/srv/a", thinProvisioning={"highWatermark": "3Gi"}, nodeSelector={"rack": "1"}),
        domain("b", "/srv/b", kind="file"),
        deleted=deleted,
    )
    host_file.replace(tmp_path / "state" / FILE_NAME, to_text(before.known()))
    kept = read(tmp_path / "state")
    assert kept is not None
    after = StorageDomains({})
    after.restore(kept)
    assert after.known() == before.known()
    assert [found.domain.spec for found in after.all()] == [found.domain.spec for found in before.all()]
    assert after.uids() == before.uids()


def test_volumes_of_a_deleted_domain_are_located_by_the_next_agent() -> None:
    after = StorageDomains({})
    after.restore(from_text(to_text(knowing(domain("a", "/srv/a"), deleted="a").known())))
    assert after.all() == ()
    assert [found.metadata.name for found in after.known().storage_domains] == ["a"]


def test_a_deleted_domain_is_dropped_once_another_one_is_in_its_place() -> None:
    known = knowing(domain("old", "/srv/a"), domain("new", "/srv/a"), deleted="old").known()
    assert [found.metadata.name for found in known.storage_domains] == ["new"]
    assert known.deleted == frozenset()


def test_one_whose_name_another_has_is_kept_until_its_place_is_served_again() -> None:
    known = knowing(domain("a", "/srv/a"), domain("a", "/srv/b"))
    after = StorageDomains({})
    after.restore(from_text(to_text(known.known())))
    assert after.known() == known.known()
    assert [found.spec.loop for found in after.known().former] == [domain("a", "/srv/a").spec.loop]
    after.update_all([domain("a", "/srv/b"), domain("c", "/srv/a")], {})
    assert after.known().former == ()


def test_one_that_selects_other_nodes_is_in_no_place_of_this_one() -> None:
    other = domain("new", "/srv/a", nodeSelector={"rack": "2"})
    known = knowing(domain("old", "/srv/a"), other, deleted="old").known()
    assert known.deleted == {"old"}


def test_whoever_is_told_of_a_change_is_told_of_each() -> None:
    told: list[KeptDomains] = []
    known = StorageDomains(LABELS)
    known.on_change(lambda: told.append(known.known()))
    known.put(domain("a"))
    known.adopt(domain("b", "/srv/b"))
    known.adopt(domain("b", "/srv/b"))
    known.remove("a", "another's")
    known.remove("a", "uid-of-a")
    known.update_node_labels({})
    assert [len(kept.deleted) for kept in told] == [0, 0, 1, 2, 2]
    assert told[-1].node_labels == {}


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b'{"format": 2, "storageDomains": []}',
        b'{"format": 1, "storageDomains": [{"metadata": {"name": "a"}, "spec": {}}]}',
        b'{"format": 1, "storageDomains": 3}',
        b'{"format": 1, "nodeLabels": {"a": []}}',
    ],
)
def test_a_damaged_file_is_told_of_and_passed_over(
    tmp_path: Path, contents: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(contents)
    assert read(tmp_path) is None
    assert "cannot be read" in caplog.text


def test_a_file_that_cannot_be_read_is_told_of_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).mkdir()
    assert read(tmp_path) is None
    assert "cannot be read" in caplog.text


def test_no_file_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path / "nothing") is None
    assert not caplog.records
