"""What the agents of the other nodes publish of their VMs.

A VM may run on another node although this node's libvirt says that it is off, or does not know it: after a migration
of the VM, or where it was defined on both.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from diskmigration import clock
from diskmigration.api import conditions
from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.api.names import LIBVIRT_HOSTS
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError
from diskmigration.cluster.leases import Lease, list_leases

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OtherHost:
    """Another node as its agent wrote it last; `is_current` tells whether that is what is there now."""

    reported: LibvirtHost
    is_current: bool

    @property
    def name(self) -> str:
        """The node's name."""
        return self.reported.metadata.name


class HostsUnknownError(Exception):
    """It cannot be told what the other nodes have; the message says why, and what to do."""


class OtherHosts:
    """Reads the other nodes' LibvirtHosts. Thread-safe."""

    def __init__(self, cluster: Cluster, *, node_name: str, namespace: str) -> None:
        """`namespace` is where the agents' Leases are."""
        self._cluster = cluster
        self._node_name = node_name
        self._namespace = namespace
        self._lock = threading.Lock()
        self._is_alone = False

    def all(self) -> tuple[OtherHost, ...]:
        """Return every other node that has, or had, an agent.

        A node that was the only one when the API server answered last is alone until it answers again: no other agent
        can have come since.

        Raises:
            HostsUnknownError: the API server does not answer.
        """
        try:
            found = [LibvirtHost.from_wire(item) for item in self._cluster.list(LIBVIRT_HOSTS)]
            others = [host for host in found if host.metadata.name != self._node_name]
            leases = list_leases(self._cluster, self._namespace) if others else {}
        except (ClusterError, ValueError) as error:
            with self._lock:
                if self._is_alone and isinstance(error, ClusterError):
                    return ()
            raise HostsUnknownError(f"the API server cannot be asked what the other nodes have: {error}") from error
        with self._lock:
            self._is_alone = not others
        now = clock.now()
        return tuple(OtherHost(host, is_current(host, leases.get(host.metadata.name), now=now)) for host in others)

    def running(self, uuid: str) -> str | None:
        """Return the name of another node on which the VM has a QEMU, or None if it has none anywhere else.

        Raises:
            HostsUnknownError: a node that had the VM does not say any more, or the API server does not answer.
        """
        return where_running(uuid, self.all())


def is_current(host: LibvirtHost, lease: Lease | None, *, now: datetime) -> bool:
    """Return whether the node's agent lives and reaches its libvirtd, so that its inventory is what is there. Pure."""
    if lease is None or now > lease.renew_time + timedelta(seconds=lease.duration_seconds):
        return False
    return conditions.is_true(host.status.conditions, "Ready")


def where_running(uuid: str, hosts: tuple[OtherHost, ...]) -> str | None:
    """Return the name of the node on which the VM runs, or None. Pure.

    Raises:
        HostsUnknownError: a node that had the VM, running or not, does not say any more.
    """
    having = [
        (host, machine.state.has_process)
        for host in hosts
        for machine in host.reported.status.virtual_machines
        if machine.uuid == uuid
    ]
    for host, runs in having:
        if host.is_current and runs:
            return host.name
    silent = sorted(host.name for host, _ in having if not host.is_current)
    if silent:
        raise HostsUnknownError(
            f"the VM {uuid} was on {', '.join(silent)} when the agent there was last heard of. Bring that agent back, "
            "or delete the Node object if the machine is off for good"
        )
    return None
