import pytest

from diskmigration.api.disk_migration import Phase
from diskmigration.api.errors import Reason
from diskmigration.controller import validation
from diskmigration.controller.records import read_domain
from tests.unit.controller.builders import domain_body, migration


@pytest.mark.parametrize("bandwidth", ["0", "-5Mi", "many", "1e30", "0.5"])
def test_an_absurd_quantity_is_refused_by_its_name(bandwidth: str) -> None:
    refusal = validation.refusal_of(migration(spec={"bandwidth": bandwidth}))
    assert refusal is not None
    assert (refusal.reason, refusal.is_permanent) == (Reason.INVALID_SPEC, True)
    assert "spec.bandwidth" in refusal.message


def test_a_raw_volume_cannot_keep_its_chain() -> None:
    refusal = validation.refusal_of(migration(spec={"destination": {"storageDomainName": "b", "format": "raw"}}))
    assert refusal is not None
    assert "Flatten" in refusal.message


def test_a_vm_must_be_named() -> None:
    refusal = validation.refusal_of(migration(spec={"virtualMachine": {"nodeName": "n1"}}))
    assert refusal is not None
    assert refusal.reason is Reason.INVALID_SPEC


def test_a_plain_spec_is_fine() -> None:
    assert validation.refusal_of(migration()) is None


def test_the_volumes_of_a_status_are_not_kept() -> None:
    read = migration(
        status={
            "phase": "Replicating",
            "source": {"storageDomainName": "a", "type": "File", "volumes": [{"anything": 1}]},
            "failure": {"reason": "ReasonOfANewerVersion", "message": "", "phase": "Pending"},
        }
    )
    assert read.status.phase is Phase.REPLICATING
    assert read.status.source is not None
    assert read.status.source.volumes == ()


def test_an_unreadable_status_does_not_lose_whom_it_was_handed_to() -> None:
    read = migration(status={"nodeName": "n1", "phase": "PhaseOfANewerVersion"})
    assert read.is_delegated
    assert not read.is_final


def test_a_domain_that_cannot_be_read_says_why() -> None:
    body = domain_body("a", kind="loop")
    body["spec"]["thinProvisioning"] = {"chunkSize": "0"}
    record = read_domain(body)
    assert record.domain is None
    assert "thinProvisioning.chunkSize" in record.error
