"""Check that the storage domains of a move may be used for it."""

from collections.abc import Sequence

from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk
from diskmigration.agent.migration.checks.disk import STORAGE_TYPES
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.api.vm_owner import Right, how_to_own, right_of


def source_domain(disk: DomainDisk, located: Sequence[OpenDomain | None]) -> OpenDomain:
    """Return the one storage domain that has the whole chain; `located` has each layer's.

    Raises:
        MigrationError: SourceNotInStorageDomain, DiskNotSupported.
    """
    domains: dict[str, OpenDomain] = {}
    for layer, domain in zip(disk.chain, located, strict=True):
        if domain is None:
            raise MigrationError(
                Reason.SOURCE_NOT_IN_STORAGE_DOMAIN,
                f"The volume {layer.path} of disk {disk.target} lies in no StorageDomain of this node. "
                "Create one for the place where it lies.",
            )
        if domain.domain.spec.type is not STORAGE_TYPES[layer.type]:
            raise MigrationError(
                Reason.DISK_NOT_SUPPORTED,
                f"The VM uses the volume {layer.path} as {layer.type}, but the storage domain {domain.name} is of type "
                f"{domain.domain.spec.type}. Correct the VM's definition.",
            )
        domains[domain.name] = domain
    if len(domains) != 1:
        raise MigrationError(
            Reason.SOURCE_NOT_IN_STORAGE_DOMAIN,
            f"The chain of disk {disk.target} is spread over several storage domains: {', '.join(sorted(domains))}. "
            "Only a chain within one can be moved.",
        )
    return domains.popitem()[1]


def require_may_move(
    description: DomainDescription, sides: Sequence[StorageDomain], namespace: str, *, system_namespace: str
) -> None:
    """Raise NamespaceNotAllowed if migrations of that namespace may not move the VM's disk between the storage domains.

    The operator has judged the same by what the node told it last.
    """
    for side in sides:
        require_allowed(side, namespace, system_namespace=system_namespace)
    right = right_of(namespace, owner=description.owner, sides=sides, system_namespace=system_namespace)
    if right is not Right.MOVE:
        raise MigrationError(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"The VM {description.name} does not say that it belongs to the namespace {namespace}. Ask an "
            f"administrator to set it: {how_to_own(description.shell_name, namespace)}.",
        )


def require_allowed(domain: StorageDomain, namespace: str, *, system_namespace: str) -> None:
    """Raise NamespaceNotAllowed if migrations of that namespace may not use the storage domain."""
    if not domain.allows(namespace, system_namespace=system_namespace):
        raise MigrationError(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"The storage domain {domain.metadata.name} does not allow migrations of namespace {namespace}. "
            "Ask its administrator to add it to spec.allowedNamespaces.",
        )
