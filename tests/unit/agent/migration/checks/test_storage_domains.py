"""The agent judges by the VM's own XML whether a namespace may move its disk, whatever the operator was told."""

from collections.abc import Sequence

import pytest

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.migration.checks.storage_domains import require_may_move
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.api.vm_owner import OWNER_URI

SYSTEM = "diskmigration-system"


def vm(metadata: str) -> domain_xml.DomainDescription:
    return domain_xml.parse(f"<domain><name>web-1</name><uuid>u</uuid><metadata>{metadata}</metadata></domain>")


def owned_by(namespace: str) -> domain_xml.DomainDescription:
    return vm(f'<diskmigration:owner xmlns:diskmigration="{OWNER_URI}" namespace="{namespace}"/>')


def sides(*allowed: str) -> Sequence[StorageDomain]:
    spec = {"file": {"path": "/srv/a"}, "allowedNamespaces": list(allowed)}
    return [StorageDomain.from_wire({"metadata": {"name": name}, "spec": spec}) for name in "ab"]


@pytest.mark.parametrize(
    ("description", "namespace", "allowed"),
    [
        (owned_by("vms"), "vms", ("vms", "others")),
        (owned_by("vms"), "vms", ("*",)),
        (owned_by("others"), SYSTEM, ()),
        (vm(""), "vms", ("vms",)),
        (vm(""), SYSTEM, ("vms",)),
    ],
)
def test_it_may(description: domain_xml.DomainDescription, namespace: str, allowed: tuple[str, ...]) -> None:
    require_may_move(description, sides(*allowed), namespace, system_namespace=SYSTEM)


@pytest.mark.parametrize(
    ("description", "allowed", "says"),
    [
        (owned_by("others"), ("vms",), "<owner namespace='vms'/>"),
        (owned_by("others"), ("*",), "<owner namespace='vms'/>"),
        (owned_by("vms"), ("others",), "allowedNamespaces"),
        (owned_by(""), ("vms", "others"), "<owner namespace='vms'/>"),
        (vm(""), ("*",), "<owner namespace='vms'/>"),
        (vm('<owner xmlns="https://example.com" namespace="vms"/>'), ("*",), "<owner namespace='vms'/>"),
    ],
)
def test_it_may_not(description: domain_xml.DomainDescription, allowed: tuple[str, ...], says: str) -> None:
    with pytest.raises(MigrationError) as refused:
        require_may_move(description, sides(*allowed), "vms", system_namespace=SYSTEM)
    assert refused.value.reason is Reason.NAMESPACE_NOT_ALLOWED
    assert says in refused.value.message
