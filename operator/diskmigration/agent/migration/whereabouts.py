"""Find out whether a VM that is off on this node, or gone from it, runs on another one."""

from dataclasses import dataclass

from diskmigration.agent.hypervisor.domain import Domain
from diskmigration.agent.migration.activity import Doing
from diskmigration.agent.migration.decision import Elsewhere
from diskmigration.agent.other_hosts import HostsUnknownError, OtherHosts


@dataclass(frozen=True)
class Whereabouts:
    """The answer, and a sentence for the user that says where the VM is, or why that cannot be told."""

    elsewhere: Elsewhere
    message: str = ""


def of_domain(domain: Domain, hosts: OtherHosts, *, doing: Doing) -> Whereabouts:
    """Return where a VM runs that this node's libvirt has, and says to be off; `doing` tells of it if it lasts.

    Raises:
        DomainGoneError, HypervisorUnavailableError: libvirt cannot tell.
    """
    with doing("Asking the other nodes whether the VM runs there"):
        return of_uuid(domain.uuid, hosts, has_left=domain.has_left_node())


def of_uuid(uuid: str, hosts: OtherHosts, *, has_left: bool) -> Whereabouts:
    """Return where a VM runs; `has_left` tells that libvirt said that it was migrated away."""
    try:
        name = hosts.running(uuid)
    except HostsUnknownError as error:
        if not has_left:
            return Whereabouts(
                Elsewhere.UNKNOWN, f"Whether the VM runs on another node cannot be told: {error}. Nothing is changed."
            )
        name = None
    if name is not None:
        return Whereabouts(Elsewhere.RUNNING, f"The VM runs on the node {name} now.")
    if has_left:
        return Whereabouts(Elsewhere.RUNNING, "The VM was migrated to another host.")
    return Whereabouts(Elsewhere.NOWHERE)
