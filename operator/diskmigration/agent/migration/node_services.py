"""The parts of the agent that all migrations on this node share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from diskmigration.agent.extender.extender import Extender
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.starts import Starts
from diskmigration.agent.migration.removal import Remover
from diskmigration.agent.migration.turns import Turns
from diskmigration.agent.migration.volume_access import RunningVms
from diskmigration.agent.other_hosts import OtherHosts
from diskmigration.agent.storage.domains import StorageDomains


@dataclass(frozen=True)
class NodeServices:
    """This node's libvirt, storage domains and extender, and what else migrations work with.

    Migrations of `system_namespace`, the operator's own, may use every storage domain. `note_change` is told the uuid
    of a VM before something goes that its XML may have named until just now. `running` returns the VMs that run.
    """

    name: str
    system_namespace: str
    connection: Connection
    domains: StorageDomains
    extender: Extender
    other_hosts: OtherHosts
    remover: Remover
    starts: Starts
    note_change: Callable[[str], None]
    running: RunningVms
    turns: Turns = field(default_factory=Turns)
