"""Who else uses a volume: a template, a linked clone, a snapshot. What somebody uses is copied, but never deleted."""

import logging
from pathlib import Path

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain, every_domain
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.errors import DomainGoneError
from diskmigration.agent.storage.backing_names import backing_paths
from diskmigration.agent.storage.paths import exists, resolved
from diskmigration.api.errors import MigrationError

_log = logging.getLogger(__name__)


def paths_in_use(connection: Connection) -> frozenset[Path]:
    """Every path, links resolved, that a VM, a persistent definition or a recorded snapshot on this node uses.

    Raises:
        HypervisorUnavailableError: libvirt could not be asked, so nothing is known.
    """
    found: set[Path] = set()
    for domain in every_domain(connection):
        try:
            found |= _of_domain(domain)
        except DomainGoneError:
            continue
    return frozenset(map(resolved, found))


def _of_domain(domain: Domain) -> set[Path]:
    found = {Path(path) for path in domain.paths_of_snapshots()}
    for description in (domain.describe(), domain.describe_persistent()):
        if description is not None:
            found |= _of_description(description)
    return found


def _of_description(description: DomainDescription) -> set[Path]:
    found = set()
    for disk in description.disks:
        layers = [*disk.chain, *([disk.mirror.layer] if disk.mirror is not None else [])]
        found |= {Path(layer.path) for layer in layers if layer.path}
        if layers and not disk.chain_is_known and layers[-1].path and layers[-1].format == "qcow2":
            found |= _below(Path(layers[-1].path), layers[-1].format)
    return found


def _below(path: Path, image_format: str) -> set[Path]:
    """The chain of a VM that is off, which libvirt has not walked: its headers say what to keep, and no more."""
    if not exists(path):
        return set()
    try:
        return set(backing_paths(path, image_format))
    except MigrationError as error:
        _log.warning("a backing chain could not be read", extra={"path": str(path), "error": error.message})
        return set()
