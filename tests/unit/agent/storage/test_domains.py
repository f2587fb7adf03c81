"""A volume is located in a domain that this node serves, whatever else there is at its path and in whatever order."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain, StorageDomainStatus

LABELS = {"kubernetes.io/hostname": "node-a", "zone": "1"}
SELECTORS: list[dict[str, str]] = [
    {},
    {"zone": "1"},
    {"kubernetes.io/hostname": "node-a", "zone": "1"},
    {"kubernetes.io/hostname": "node-b"},
    {"zone": "1", "disk": "fast"},
]


@dataclass(frozen=True)
class Known:
    """A domain as this node sees it."""

    name: str
    selector: int
    is_deleted: bool

    @property
    def is_served(self) -> bool:
        return not self.is_deleted and SELECTORS[self.selector].items() <= LABELS.items()


every_known = st.lists(
    st.builds(Known, st.sampled_from("abcdef"), st.integers(0, len(SELECTORS) - 1), st.booleans()),
    unique_by=lambda known: known.name,
)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("local") / "disk.qcow2"
    path.touch()
    return path


def made(path: Path, name: str, selector: dict[str, str], uid: str = "") -> StorageDomain:
    spec = {"file": {"path": str(path)}, "nodeSelector": selector}
    return StorageDomain.from_wire({"metadata": {"name": name, "uid": uid}, "spec": spec})


def holding(volume: Path, every: list[Known], labels: dict[str, str]) -> StorageDomains:
    domains = StorageDomains(labels)
    for known in every:
        domains.put(made(volume.parent, known.name, SELECTORS[known.selector]))
        if known.is_deleted:
            domains.remove(known.name, "")
    return domains


@given(every_known)
def test_what_this_node_does_not_serve_never_wins(volume: Path, every: list[Known]) -> None:
    domains = holding(volume, every, LABELS)
    served = {known.name for known in every if known.is_served}
    assert {found.name for found in domains.all()} == served
    located, in_any = domains.locate(volume), domains.locate_in_any(volume)
    if served:
        assert located == in_any
        assert located is not None
        assert located[0].name in served
    else:
        assert located is None
        assert (in_any is None) == (not every), "a guest's volume stays known"


def test_two_domains_of_one_path_are_local_storage_of_two_nodes(volume: Path) -> None:
    for hostname in ("node-a", "node-b"):
        domains = StorageDomains({"kubernetes.io/hostname": hostname})
        for name in ("node-a", "node-b"):
            domains.put(made(volume.parent, f"local-{name}", {"kubernetes.io/hostname": name}))
        located = domains.locate(volume)
        assert located is not None
        assert located[0].name == f"local-{hostname}"


def test_labels_that_change_change_what_is_served(volume: Path) -> None:
    domains = StorageDomains({"zone": "1"})
    domains.put(made(volume.parent, "first", {"zone": "1"}))
    domains.put(made(volume.parent, "second", {"zone": "2"}))
    for zone, name in (("1", "first"), ("2", "second"), ("1", "first")):
        domains.update_node_labels({"zone": zone})
        located = domains.locate(volume)
        assert located is not None
        assert located[0].name == name
    domains.update_node_labels({})
    assert domains.locate(volume) is None
    assert domains.locate_in_any(volume) is not None


def test_a_domain_that_took_the_place_of_a_deleted_one_has_its_volumes(volume: Path) -> None:
    domains = StorageDomains({})
    for name in ("old", "new"):
        domains.put(made(volume.parent, name, {}))
    domains.remove("old", "")
    for locate in (domains.locate, domains.locate_in_any):
        located = locate(volume)
        assert located is not None
        assert located[0].name == "new"


def test_a_domain_that_does_not_select_the_node_is_no_destination(volume: Path) -> None:
    domains = StorageDomains(LABELS)
    domains.put(made(volume.parent, "elsewhere", {"zone": "2"}))
    with pytest.raises(MigrationError, match="nodeSelector") as found:
        domains.get("elsewhere")
    assert found.value.reason is Reason.STORAGE_DOMAIN_NOT_READY


def test_what_is_adopted_from_a_journal_is_no_place_for_anything_new(volume: Path) -> None:
    domains = StorageDomains(LABELS)
    adopted = domains.adopt(made(volume.parent, "gone", {}))
    assert adopted.name == "gone"
    assert domains.locate(volume) is None
    located = domains.locate_in_any(volume)
    assert located is not None
    assert located[0] == adopted


def test_a_deletion_that_comes_late_does_not_touch_the_next_one_of_that_name(volume: Path) -> None:
    domains = StorageDomains({})
    domains.put(made(volume.parent, "a", {}, uid="1"))
    domains.put(made(volume.parent, "a", {}, uid="2"))
    domains.remove("a", "1")
    assert domains.uids() == {"a": "2"}
    domains.remove("a", "2")
    assert domains.uids() == {}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "disk.qcow2").touch()
    return tmp_path


@pytest.mark.parametrize("is_adopted_first", [True, False])
def test_a_migration_keeps_to_the_place_of_its_journal_whoever_takes_the_name(
    volume: Path, elsewhere: Path, is_adopted_first: bool
) -> None:
    domains = StorageDomains({})
    in_journal, now = made(volume.parent, "a", {}, uid="1"), made(elsewhere, "a", {}, uid="2")
    if is_adopted_first:
        domains.adopt(in_journal)
    domains.put(now)
    adopted = domains.adopt(in_journal)
    assert adopted.driver.path("disk.qcow2") == volume
    assert adopted is domains.adopt(in_journal)
    assert domains.is_deleted(adopted)
    [served] = domains.all()
    assert served.driver.path("disk.qcow2") == elsewhere / "disk.qcow2"
    assert not domains.is_deleted(served)
    assert domains.adopt(now) is served


def test_a_guests_volume_stays_known_whoever_takes_the_name_of_its_domain(volume: Path, elsewhere: Path) -> None:
    domains = StorageDomains({})
    domains.put(made(volume.parent, "a", {}, uid="1"))
    domains.put(made(elsewhere, "a", {}, uid="2"))
    assert domains.locate(volume) is None
    assert domains.locate_in_any(volume) is not None
    domains.put(made(volume.parent, "a", {}, uid="3"))
    assert domains.locate(volume) is not None
    assert domains.known().former == (made(elsewhere, "a", {}, uid="2"),)


@given(every_known, st.data())
def test_what_the_api_server_does_not_list_is_served_no_more(
    volume: Path, every: list[Known], data: st.DataObject
) -> None:
    domains = holding(volume, every, LABELS)
    listed = data.draw(st.sets(st.sampled_from("abcdef")))
    domains.update_all([made(volume.parent, name, {}, uid="new") for name in sorted(listed)], {})
    assert domains.uids() == dict.fromkeys(listed, "new")
    assert {found.name for found in domains.all()} == listed
    assert (domains.locate_in_any(volume) is None) == (not listed and not every), "a guest's volume stays known"


def test_a_domain_of_which_nothing_has_changed_has_no_volume_located_anew(volume: Path, elsewhere: Path) -> None:
    domains = StorageDomains({})
    first, again = made(volume.parent, "a", {}, uid="1"), made(volume.parent, "a", {}, uid="1")
    assert domains.put(first)
    version = domains.version()
    status = StorageDomainStatus(ready_nodes=1)
    assert not domains.put(again.model_copy(update={"status": status}))
    assert domains.version() == version
    for other in (
        made(volume.parent, "a", {"zone": "1"}, uid="1"),
        made(volume.parent, "a", {}, uid="2"),
        made(elsewhere, "a", {}, uid="2"),
        made(volume.parent, "a", {}, uid="2"),
    ):
        assert domains.put(other)
    domains.remove("a", "2")
    assert domains.put(made(volume.parent, "a", {}, uid="2"))
