"""The storage domains of the migrations that are under way, known from their journals alone."""

import logging
import time

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain import Domain, every_domain
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.migration import journal as journals
from diskmigration.agent.storage.domains import StorageDomains
from diskmigration.api.errors import MigrationError

_log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


def adopt_journals(connection: Connection, domains: StorageDomains) -> None:
    """Adopt the storage domains that the journals in the node's VMs name; wait for a libvirtd that does not answer."""
    while True:
        try:
            for domain in every_domain(connection):
                _adopt(domain, domains)
        except HypervisorUnavailableError as error:
            _log.warning("journals cannot be looked for yet", extra={"error": error.message})
            time.sleep(RETRY_SECONDS)
        else:
            return


def _adopt(domain: Domain, domains: StorageDomains) -> None:
    try:
        found = [journals.read(domain, disk.target) for disk in domain.describe().disks]
    except DomainGoneError:
        return
    except HypervisorUnavailableError:
        raise
    except MigrationError as error:
        # The migration itself is refused or fails with the same message.
        _log.warning("a journal cannot be read", extra={"vm": domain.uuid, "error": error.message})
        return
    for journal in found:
        if journal is not None:
            domains.adopt(journal.source_domain)
            domains.adopt(journal.destination_domain)
