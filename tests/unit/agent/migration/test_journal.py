"""The journal as text: what is written is what is read, whatever the names and paths are."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.migration.journal import ColdSwitch, Journal, JournalVolume, Stage
from diskmigration.api.disk_migration import Failure, Phase, SourceVolumes
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.model import Model
from tests.unit.agent.builders import GIB, UID, journal, migration, storage_domain, volume

# What a path may hold: anything but NUL and a byte that is no UTF-8.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)


@dataclass(frozen=True)
class Metadata(Domain):
    """A VM of which only the metadata is there, as text."""

    connection: Connection = field(default=None)  # type: ignore[assignment]  # it is never asked for
    uuid: str = "a6f1"
    elements: dict[str, str] = field(default_factory=dict)

    def metadata(self, uri: str) -> str | None:
        return self.elements.get(uri)

    def set_metadata(self, uri: str, prefix: str, element: str | None) -> None:  # noqa: ARG002 - libvirt's alone
        if element is None:
            self.elements.pop(uri, None)
        else:
            self.elements[uri] = element


def written_and_read(found: Journal) -> Journal | None:
    domain = Metadata()
    journals.write(domain, found)
    return journals.read(domain, found.migration.spec.disk)


@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_every_shape_comes_back_as_it_was(strategy: str, flatten: bool, length: int) -> None:
    found = journal(strategy=strategy, flatten=flatten, length=length)
    assert written_and_read(found) == found


def test_all_that_a_run_adds_comes_back() -> None:
    found = journal(
        length=3,
        attempt=2,
        stage=Stage.COPIED,
        copy_bytes=(GIB, 0, 17),
        copied=("a", "b"),
        failure=Failure(reason=Reason.COPY_FAILED, message='While copying "a" & <b>', phase=Phase.COPYING_CHAIN),
        cancelled=True,
        outcome=Phase.FAILED,
    )
    assert written_and_read(found) == found


def test_the_whole_spec_comes_back() -> None:
    spec = {
        "virtualMachine": {"name": "web-1", "uuid": UID, "nodeName": "node-a"},
        "disk": "sdb",
        "destination": {"storageDomainName": "san", "format": "raw", "provisioning": "Thick"},
        "backingChain": "Flatten",
        "copyMode": "WriteBlocking",
        "bandwidth": "200Mi",
        "cutover": {"policy": "Manual", "notBefore": "2026-12-01T02:00:00Z"},
        "suspend": True,
        "sourceVolumes": "Retain",
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 0,
    }
    found = journal(
        migration=migration(spec=spec),
        destination_domain=storage_domain(
            "san", "loop", thinProvisioning={"chunkSize": "3Gi"}, nodeSelector={"a": "b"}
        ),
    )
    assert written_and_read(found) == found


@given(texts, texts, texts)
@example("\ufffe", "\uffff", "\x01]]>")
def test_odd_names_and_paths_come_back(name: str, path: str, message: str) -> None:
    found = journal(
        source=(volume(f"/srv/{path}"),),
        copied=(name,),
        failure=Failure(reason=Reason.STORAGE_FAILED, message=message, phase=Phase.REPLICATING),
    )
    assert written_and_read(found) == found


def test_a_vm_without_a_journal_has_none() -> None:
    assert journals.read(Metadata(), "vda") is None


def test_each_disk_has_its_own() -> None:
    domain = Metadata()
    one, other = journal(), journal(migration=migration(spec={"disk": "vdb"}))
    journals.write(domain, one)
    journals.write(domain, other)
    journals.erase(domain, one)
    assert journals.read(domain, "vda") is None
    assert journals.read(domain, "vdb") == other


def test_the_one_of_the_disks_next_migration_stays() -> None:
    domain = Metadata()
    ended, following = journal(outcome=Phase.CANCELLED), journal(migration=migration(uid="another"))
    journals.write(domain, following)
    journals.erase(domain, ended)
    assert journals.read(domain, "vda") == following


def test_one_of_another_migration_that_works_on_the_disk_is_not_written_over() -> None:
    domain = Metadata()
    other = journal(migration=migration(uid="another"))
    journals.write(domain, other)
    with pytest.raises(MigrationError, match="another DiskMigration, vms/web-1") as refused:
        journals.write(domain, journal())
    assert refused.value.reason is Reason.FOREIGN_CHANGE
    assert journals.read(domain, "vda") == other
    journals.write(domain, other.model_copy(update={"outcome": Phase.FAILED}))
    journals.write(domain, journal())
    assert journals.read(domain, "vda") == journal()


@pytest.mark.parametrize("element", ["<journal", "<journal/>", "<journal>{</journal>", "<journal>{}</journal>"])
def test_one_that_cannot_be_read_is_a_lock_all_the_same(element: str) -> None:
    domain = Metadata(elements={journals.uri("vda"): element})
    with pytest.raises(MigrationError, match="virsh metadata") as refused:
        journals.read(domain, "vda")
    assert refused.value.reason is Reason.DISK_BUSY


def test_it_is_one_element_of_plain_text() -> None:
    domain = Metadata()
    journals.write(domain, journal())
    element = ET.fromstring(domain.elements[journals.uri("vda")])
    assert (element.tag, len(element)) == ("journal", 0)
    assert journals.uri("vda") != journals.uri("vdb")


@pytest.mark.parametrize(
    ("found", "copies"),
    [
        (journal(length=1), ["layer-0 0"]),
        (journal(length=3), ["layer-0 0", "layer-1 1", "layer-2 2"]),
        (journal(length=3, flatten=True), ["layer-2 0"]),
        (journal(strategy="Direct", length=1), []),
        (journal(strategy="Direct", length=3), ["layer-0 0", "layer-1 1"]),
        # The mirror itself flattens.
        (journal(strategy="Direct", length=3, flatten=True), []),
    ],
)
def test_what_is_copied_before_the_mirror_starts(found: Journal, copies: list[str]) -> None:
    pairs = [f"{source.name} {copy.name.removeprefix(f'dm-{UID}-')}" for source, copy in found.internal_copies]
    assert pairs == copies


def test_what_is_mirrored_and_where_to() -> None:
    with_snapshot, direct = journal(length=2), journal(strategy="Direct", length=2)
    assert (with_snapshot.mirrored, with_snapshot.mirror) == (with_snapshot.snapshot, with_snapshot.overlay)
    assert (direct.mirrored, direct.mirror) == (direct.source[-1], direct.destination[-1])
    assert journal(length=2, flatten=True).flattens
    assert not journal(length=1, flatten=True).flattens


def test_a_retained_source_needs_only_its_top_handed_over() -> None:
    """A snapshot that is given up is merged into the top; the rest is deleted, or not touched at all."""
    moving = journal(length=3)
    assert moving.may_change == moving.source
    spec = moving.migration.spec.model_copy(update={"source_volumes": SourceVolumes.RETAIN})
    kept = moving.model_copy(update={"migration": moving.migration.model_copy(update={"spec": spec})})
    assert kept.may_change == moving.source[-1:]


def test_a_switch_whose_writes_are_not_counted_is_read_back() -> None:
    """As of a device whose kernel keeps no statistics: what is None is not written."""
    switched = journal(length=1).model_copy(update={"cold_switch": ColdSwitch(old="/old", new="/new")})
    assert written_and_read(switched) == switched


@pytest.mark.parametrize("model", [Journal, JournalVolume, ColdSwitch])
def test_a_field_that_may_be_none_has_a_default(model: type[Model]) -> None:
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    assert [name for name in required if type(None) in get_args(model.model_fields[name].annotation)] == []


@pytest.mark.parametrize("strategy", ["Snapshot", "Direct"])
def test_what_the_disk_has_left_behind_is_all_but_the_chain_that_it_is_on(strategy: str) -> None:
    found = journal(strategy=strategy, length=2)
    for outcome, chain in ((Phase.SUCCEEDED, found.destination), (Phase.FAILED, found.source)):
        left = found.model_copy(update={"outcome": outcome}).left_behind
        assert set(left) == set(found.volumes) - set(chain)
