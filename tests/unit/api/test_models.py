"""The models on the wire: lenient on reading, camelCase on writing, and clear about what is wrong."""

from typing import Any

import pytest
from pydantic import ValidationError

from diskmigration.api.disk_migration import DiskMigration, Phase
from diskmigration.api.errors import RETRYABLE, MigrationError, Reason
from diskmigration.api.libvirt_host import VirtualMachineState
from diskmigration.api.storage_domain import StorageDomain, StorageType

MIB = 2**20

MIGRATION: dict[str, Any] = {
    "apiVersion": "diskmigration.dev/v1alpha1",
    "kind": "DiskMigration",
    "metadata": {
        "name": "web-1",
        "namespace": "vms",
        "uid": "u",
        "generation": 4,
        "managedFields": [{"manager": "kubectl"}],
        "annotations": None,
    },
    "spec": {
        "virtualMachine": {"name": "web-1", "uuid": "0f6c"},
        "disk": "vda",
        "destination": {"storageDomainName": "nfs", "fromTheFuture": 1},
        "bandwidth": "200Mi",
        "cutover": {"policy": "Manual", "notBefore": "2026-12-01T02:00:00Z"},
    },
}


def domain(**spec: Any) -> StorageDomain:
    return StorageDomain.from_wire({"metadata": {"name": "nfs"}, "spec": spec})


def test_a_newer_servers_fields_are_passed_over() -> None:
    found = DiskMigration.from_wire(MIGRATION)
    assert (found.key, found.metadata.generation, found.spec.bandwidth) == ("vms/web-1", 4, 200 * MIB)
    assert found.status.observed_generation == -1


def test_what_is_written_is_what_is_read() -> None:
    found = DiskMigration.from_wire(MIGRATION)
    wire = found.to_wire()
    assert DiskMigration.from_wire(wire) == found
    assert wire["spec"]["cutover"] == {"policy": "Manual", "notBefore": "2026-12-01T02:00:00Z"}
    assert "activeDeadlineSeconds" not in wire["spec"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bandwidth", "0"),
        ("bandwidth", "-1Mi"),
        ("bandwidth", "fast"),
        ("bandwidth", "inf"),
        ("bandwidth", "1e400"),
        ("disk", None),
        ("backingChain", "preserve"),
        ("progressTimeoutSeconds", 0),
        ("backoffLimit", -1),
        ("cutover", {"notBefore": "tomorrow"}),
        # Which moment that is depends on who reads it.
        ("cutover", {"notBefore": "2026-12-01T02:00:00"}),
    ],
)
def test_a_spec_that_is_wrong_is_refused_by_its_field(field: str, value: object) -> None:
    wrong = {**MIGRATION, "spec": {**MIGRATION["spec"], field: value}}
    with pytest.raises(ValidationError, match=field):
        DiskMigration.from_wire(wrong)


def test_how_a_message_names_a_vm() -> None:
    found = DiskMigration.from_wire(MIGRATION).spec.virtual_machine
    assert str(found) == '"web-1" (uuid 0f6c)'
    assert str(found.model_copy(update={"uuid": None})) == '"web-1"'
    assert str(found.model_copy(update={"name": None})) == "of any name (uuid 0f6c)"


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ({"file": {"path": "/a"}}, StorageType.FILE),
        ({"loop": {"path": "/a"}}, StorageType.BLOCK),
        ({"lvm": {"volumeGroup": "vg"}}, StorageType.BLOCK),
    ],
)
def test_the_type_of_a_storage_domain(spec: dict[str, Any], kind: StorageType) -> None:
    assert domain(**spec).spec.type is kind


@pytest.mark.parametrize("spec", [{}, {"file": {"path": "/a"}, "loop": {"path": "/b"}}])
def test_a_storage_domain_is_of_one_kind(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of file, loop and lvm"):
        domain(**spec)


@pytest.mark.parametrize(
    ("allowed", "namespace", "expected"),
    [
        ((), "vms", False),
        ((), "diskmigration-system", True),
        (("vms",), "vms", True),
        (("vms",), "vms-2", False),
        (("*",), "anything", True),
    ],
)
def test_whose_migrations_a_domain_allows(allowed: tuple[str, ...], namespace: str, expected: bool) -> None:
    found = domain(file={"path": "/a"}, allowedNamespaces=list(allowed))
    assert found.allows(namespace, system_namespace="diskmigration-system") is expected


def test_the_phases_are_divided() -> None:
    assert [phase for phase in Phase if phase.is_final] == [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED]
    assert [phase for phase in Phase if phase.belongs_to_operator] == [Phase.PENDING, Phase.SCHEDULED]


def test_only_a_vm_that_is_shut_off_has_surely_no_process() -> None:
    assert {state for state in VirtualMachineState if not state.has_process} == {VirtualMachineState.SHUT_OFF}


def test_an_error_carries_its_reason_and_message() -> None:
    error = MigrationError(Reason.DISK_BUSY, "Wait.")
    assert (error.reason, error.message, str(error)) == (Reason.DISK_BUSY, "Wait.", "Wait.")
    assert Reason.DISK_BUSY not in RETRYABLE
