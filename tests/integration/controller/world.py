"""The controller's counterpart: what administrators, users and agents write to the API server, and nothing else.

It is the real API server that is spoken to. The agents' part is played by the tests, as the controller knows an agent
by nothing but its LibvirtHost, its Lease and the statuses that it writes.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from diskmigration.api import names
from diskmigration.cluster import leases
from diskmigration.cluster.client import Cluster, connect
from testbed.control_plane import ControlPlane
from tests.integration.user import User
from tests.waiting import wait_until

GIB = 2**30
PATIENCE_SECONDS = 30.0
FINAL = ("Succeeded", "Failed", "Cancelled")

_numbers = itertools.count(1)


def machine(
    name: str, *, state: str = "Running", disks: list[dict[str, Any]] | None = None, owner: str = ""
) -> dict[str, Any]:
    """A VM with a uuid of its own, and a disk vda on the storage domain `src`; `owner` is its namespace."""
    number = next(_numbers)
    return {
        "name": name,
        "uuid": f"00000000-0000-4000-8000-{number:012}",
        "state": state,
        "disks": [disk()] if disks is None else disks,
        **({"ownerNamespace": owner} if owner else {}),
    }


def disk(target: str = "vda", *, domain: str = "src", kind: str = "File", allocated: int = GIB) -> dict[str, Any]:
    return {
        "target": target,
        "storageDomainName": domain,
        "volume": f"{target}.qcow2",
        "type": kind,
        "format": "qcow2",
        "capacityBytes": 10 * GIB,
        "sizeBytes": allocated,
        "allocatedBytes": allocated,
    }


@dataclass
class World:
    """One test's storage domains, nodes and VMs, with names that no other test uses."""

    control_plane: ControlPlane
    user: User
    admin: Cluster
    agent: Cluster
    tag: str
    namespaces: list[str] = field(default_factory=list)
    machines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def name(self, short: str) -> str:
        """A cluster-wide name of this test's own."""
        return f"{short}-{self.tag}"

    def namespace(self, short: str = "vms") -> str:
        """A namespace of this test's own, made on first use."""
        name = self.name(short)
        if name not in self.namespaces:
            self.user.create_namespace(name)
            self.namespaces.append(name)
        return name

    def domain(self, short: str, *, kind: str = "file", **spec: Any) -> str:
        """An administrator's StorageDomain; the namespace `vms` alone is allowed unless it says otherwise."""
        place = {"volumeGroup": "vg"} if kind == "lvm" else {"path": f"/srv/{self.name(short)}"}
        body = {"spec": {kind: place, "allowedNamespaces": [self.name("vms")], **spec}}
        self.admin.apply(names.STORAGE_DOMAINS, self.name(short), body, field_manager="kubectl")
        return self.name(short)

    def node(
        self,
        short: str,
        machines: list[dict[str, Any]],
        reports: list[dict[str, Any]] | None = None,
        *,
        has_agent: bool = True,
        has_object: bool = False,
    ) -> str:
        """A node whose agent reports these VMs, and lives unless told otherwise. Few tests need the Node object."""
        name = self.name(short)
        if has_object:
            self.control_plane.create_node(name, {})
        if has_agent:
            self.renew(name)
        self.report(name, machines, [ready("src"), ready("dst")] if reports is None else reports)
        return name

    def renew(self, node: str) -> None:
        """The agent on that node renews its Lease."""
        leases.renew_lease(self.agent, names.SYSTEM_NAMESPACE, node, holder=node, duration_seconds=40)

    def report(
        self, node: str, machines: list[dict[str, Any]], reports: list[dict[str, Any]], *, complaint: str = ""
    ) -> None:
        """The agent on that node writes its LibvirtHost; `complaint` is why it does not know its VMs at the moment."""
        ready = {
            "type": "Ready",
            "status": "False" if complaint else "True",
            "reason": "HypervisorUnavailable" if complaint else "LibvirtAnswers",
            "message": complaint,
            "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.machines[node], self.reports[node] = machines, reports
        body = self.agent.apply(names.LIBVIRT_HOSTS, node, {}, field_manager=names.AGENT_FIELD_MANAGER)
        status = {
            "conditions": [ready],
            "virtualMachines": [
                {
                    **one,
                    "disks": [
                        {
                            **each,
                            "storageDomainName": self.name(each["storageDomainName"])
                            if each["storageDomainName"]
                            else "",
                        }
                        for each in one["disks"]
                    ],
                }
                for one in machines
            ],
            "storageDomains": [{**one, "name": self.name(one["name"])} for one in reports],
        }
        self.agent.apply_status(
            names.LIBVIRT_HOSTS,
            node,
            status,
            uid=body["metadata"]["uid"],
            field_manager=names.AGENT_FIELD_MANAGER,
        )

    def migrate(self, name: str, vm: str, *, to: str = "dst", namespace: str = "vms", **spec: Any) -> "Handle":
        """A user's `kubectl apply` of a DiskMigration of the VM's vda."""
        handle = Handle(self, self.namespace(namespace), name)
        body = {
            "virtualMachine": {"name": vm},
            "disk": "vda",
            "destination": {"storageDomainName": self.name(to)},
            **spec,
        }
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "DiskMigration",
            "metadata": {"name": name, "namespace": handle.namespace},
            "spec": body,
        }
        self.admin.create(names.DISK_MIGRATIONS, body, namespace=handle.namespace)
        return handle

    def statuses(self) -> dict[str, dict[str, Any]]:
        """The status of every DiskMigration of this test, by `namespace/name`."""
        return {
            f"{body['metadata']['namespace']}/{body['metadata']['name']}": body.get("status", {})
            for namespace in self.namespaces
            for body in self.admin.list(names.DISK_MIGRATIONS, namespace=namespace)
        }


def ready(
    name: str,
    *,
    is_ready: bool = True,
    reason: str = "",
    available: int = 1000 * GIB,
    group: str = "",
    lock_type: str = "none",
) -> dict[str, Any]:
    """`group` is the uuid of the domain's volume group."""
    said = {
        "name": name,
        "ready": is_ready,
        "reason": reason,
        "capacityBytes": 1000 * GIB,
        "availableBytes": available,
    }
    return {**said, "volumeGroup": {"uuid": group, "lockType": lock_type}} if group else said


@dataclass(frozen=True)
class Handle:
    """One DiskMigration."""

    world: World
    namespace: str
    name: str

    def body(self) -> dict[str, Any] | None:
        return self.world.admin.get(names.DISK_MIGRATIONS, self.name, self.namespace)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = (self.body() or {}).get("status", {})
        return status

    def condition(self, kind: str) -> dict[str, Any]:
        found = [one for one in self.status().get("conditions", []) if one["type"] == kind]
        return found[0] if found else {}

    def until_phase(self, *phases: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Its status once its phase is one of these."""
        last: list[dict[str, Any]] = [{}]

        def look() -> dict[str, Any] | None:
            last[0] = self.status()
            return last[0] if last[0].get("phase") in phases else None

        try:
            return wait_until(look, "", seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{self.name} is not {' or '.join(phases)} but {last[0]}") from None

    def until_accepted(self, status: str, reason: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The condition Accepted once it says so."""
        last: list[dict[str, Any]] = [{}]

        def look() -> dict[str, Any] | None:
            last[0] = self.condition("Accepted")
            return last[0] if (last[0].get("status"), last[0].get("reason")) == (status, reason) else None

        try:
            return wait_until(look, "", seconds=seconds)
        except AssertionError:
            raise AssertionError(f"Accepted of {self.name} is not {status}/{reason} but {last[0]}") from None

    def until_gone(self, seconds: float = PATIENCE_SECONDS) -> None:
        wait_until(lambda: self.body() is None, f"{self.name} is gone", seconds=seconds)

    def patch(self, **spec: Any) -> None:
        """A user's change of the spec."""
        self.world.user.patch(names.DISK_MIGRATIONS, self.name, {"spec": spec}, namespace=self.namespace)

    def delete(self) -> None:
        """A user's `kubectl delete` that does not wait."""
        self.world.user.delete(names.DISK_MIGRATIONS, self.name, self.namespace)

    def agent_writes(self, status: dict[str, Any]) -> None:
        """The agent of its node writes its part of the status."""
        body = self.body()
        assert body is not None
        self.world.agent.apply_status(
            names.DISK_MIGRATIONS,
            self.name,
            status,
            namespace=self.namespace,
            uid=body["metadata"]["uid"],
            field_manager=names.AGENT_FIELD_MANAGER,
        )

    def agent_ends(self, phase: str = "Succeeded") -> None:
        """The agent's last word."""
        status = self.status()
        self.agent_writes(agent_status(status, phase, is_final=True))


def agent_status(before: dict[str, Any], phase: str, *, is_final: bool = False) -> dict[str, Any]:
    """What the agent applies: what it read, with its own fields and its five conditions."""
    is_good = phase == "Succeeded"
    values = {
        "Synchronized": "True" if is_good else "False",
        "Succeeded": ("True" if is_good else "False") if is_final else "Unknown",
        "Ready": "True" if is_good else "False",
        "Reconciling": "False" if is_final else "True",
        "Stalled": "True" if is_final and not is_good else "False",
    }
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kept = ("observedGeneration", "nodeName", "startTime", "source", "destination")
    return {
        **{name: before[name] for name in kept if name in before},
        "phase": phase,
        "attempts": 1,
        "allocatedBytes": 12345,
        "conditions": [
            {"type": kind, "status": value, "reason": phase, "message": "", "lastTransitionTime": now}
            for kind, value in values.items()
        ],
        **({"completionTime": now} if is_final else {}),
    }


@contextmanager
def making(control_plane: ControlPlane, user: User, admin: Cluster) -> Iterator[World]:
    """A world of one test's own; what it made is deleted after it."""
    world = World(control_plane, user, admin, admin, f"t{next(_numbers)}")
    try:
        yield world
    finally:
        for namespace in world.namespaces:
            for body in admin.list(names.DISK_MIGRATIONS, namespace=namespace):
                metadata = body["metadata"]
                if metadata.get("finalizers"):
                    freed = {"metadata": {"finalizers": None}}
                    user.patch(names.DISK_MIGRATIONS, metadata["name"], freed, namespace=namespace)
                admin.delete(names.DISK_MIGRATIONS, metadata["name"], namespace, uid=metadata["uid"])
        for node in world.machines:
            host = admin.get(names.LIBVIRT_HOSTS, node)
            if host is not None:
                admin.delete(names.LIBVIRT_HOSTS, node, uid=host["metadata"]["uid"])


def connect_admin(control_plane: ControlPlane) -> Cluster:
    return connect(control_plane.admin_kubeconfig)
