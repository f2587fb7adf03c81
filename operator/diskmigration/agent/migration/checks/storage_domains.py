"""Check that the storage domains of a move may be used for it."""

from collections.abc import Sequence

from diskmigration.agent.hypervisor.domain_xml import DomainDisk
from diskmigration.agent.migration.checks.disk import STORAGE_TYPES
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain


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


def require_allowed(domain: StorageDomain, namespace: str, *, system_namespace: str) -> None:
    """Raise NamespaceNotAllowed if migrations of that namespace may not use the storage domain."""
    if not domain.allows(namespace, system_namespace=system_namespace):
        raise MigrationError(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"The storage domain {domain.metadata.name} does not allow migrations of namespace {namespace}. "
            "Ask its administrator to add it to spec.allowedNamespaces.",
        )
