"""Everything that runs in a cluster with one node, and how a user drives it: through the API."""

import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from diskmigration.api import names
from diskmigration.cluster.client import Cluster
from testbed.libvirt_host import LibvirtHost
from testbed.programs import Program
from tests.integration.migrations.machines import Domain, Machine
from tests.integration.user import User, user_of
from tests.waiting import wait_until

_T = TypeVar("_T")

NAMESPACE = "vms"
NODE = "node-a"
FINAL = ("Succeeded", "Failed", "Cancelled")
WATERMARK_BYTES = 8 * 2**20
CHUNK_BYTES = 16 * 2**20
REPLICATION_CHUNK_BYTES = 32 * 2**20


class Kubectl(Protocol):
    """A control plane, as its administrator sees it."""

    @property
    def admin_kubeconfig(self) -> Path:
        """The administrator's credentials."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl, and return what it printed."""


@dataclass(frozen=True)
class Stack:
    """The running parts. `domains` are by name: file-a, file-b, loop-a, loop-b.

    Users write through `user`; what is polled is read through `cluster`. Both are the administrator.
    """

    control_plane: Kubectl
    cluster: Cluster
    host: LibvirtHost
    agent: Program
    domains: dict[str, Domain]

    @cached_property
    def user(self) -> User:
        """The administrator, as one who writes."""
        return user_of(self.control_plane.admin_kubeconfig)

    def apply(self, document: dict[str, Any]) -> None:
        """`kubectl apply`."""
        self.user.apply(document)

    def migrate(self, machine: Machine | str, to: str, **spec: Any) -> "Migration":
        """Applies a DiskMigration of the disk vda as soon as the operator can know of the VM, and returns at once.

        `to` names the destination; `spec` is merged over the required fields, and its `destination` over that one.
        """
        name = machine if isinstance(machine, str) else machine.name
        if isinstance(machine, Machine):
            wait_until(lambda: self.shown(machine) is not None, f"the inventory has {machine.name} on its disk")
        migration = Migration(self, f"m-{uuid.uuid4().hex[:8]}")
        whole = {
            "virtualMachine": {"name": name},
            "disk": "vda",
            **spec,
            "destination": {"storageDomainName": to, **spec.get("destination", {})},
        }
        self.apply(
            {
                "apiVersion": "diskmigration.dev/v1alpha1",
                "kind": "DiskMigration",
                "metadata": {"name": migration.name, "namespace": NAMESPACE},
                "spec": whole,
            }
        )
        return migration

    def make_ready(self, domains: dict[str, Domain]) -> None:
        """Applies the StorageDomains, and waits until the node reaches them all."""
        for domain in domains.values():
            self.apply(storage_domain(domain))
        wait_until(lambda: set(domains) <= self._ready_domains(), "the storage domains are ready", seconds=60)

    def _ready_domains(self) -> set[str]:
        found = self.cluster.list(names.STORAGE_DOMAINS)
        return {each["metadata"]["name"] for each in found if each.get("status", {}).get("readyNodes") == 1}

    def host_object(self) -> dict[str, Any]:
        """The node's LibvirtHost as it is now."""
        return self.cluster.get(names.LIBVIRT_HOSTS, NODE) or {}

    def shown(self, machine: Machine) -> dict[str, Any] | None:
        """The VM as the node's inventory has it, if it does."""
        machines = self.host_object().get("status", {}).get("virtualMachines", [])
        return next((known for known in machines if known["uuid"] == machine.uuid), None)

    def give(self, machine: Machine, namespace: str) -> None:
        """Has the VM belong to a namespace, and the inventory say so."""
        machine.belong_to(namespace)
        wait_until(
            lambda: (self.shown(machine) or {}).get("ownerNamespace") == namespace, f"{machine.name} is {namespace}'s"
        )

    def shown_disks(self, machine: Machine) -> dict[str, dict[str, Any]]:
        """The VM's disks as the node's inventory has them, by target device."""
        return {disk["target"]: disk for disk in (self.shown(machine) or {"disks": []})["disks"]}


@dataclass(frozen=True)
class Migration:
    """A DiskMigration in the namespace `vms`."""

    stack: Stack
    name: str

    def get(self) -> dict[str, Any]:
        """The object as it is now."""
        found = self.stack.cluster.get(names.DISK_MIGRATIONS, self.name, NAMESPACE)
        assert found is not None, f"{self.name} is gone"
        return found

    @property
    def uid(self) -> str:
        """The object's uid, from which the names of its volumes derive."""
        return str(self.get()["metadata"]["uid"])

    def status(self) -> dict[str, Any]:
        """Its status as it is now."""
        found: dict[str, Any] = self.get().get("status", {})
        return found

    def phase(self) -> str:
        """Its phase as it is now, or nothing."""
        return str(self.status().get("phase", ""))

    def is_observed(self) -> bool:
        """Whether its status speaks of its spec as it is now."""
        found = self.get()
        return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])

    def ended_knowing_its_spec(self) -> bool:
        """Whether what it says of its end speaks of its spec as it is now, and not its status alone."""
        found = self.get()
        said = self.condition("Succeeded")
        return bool(said["observedGeneration"] == found["metadata"]["generation"])

    def patch(self, spec: dict[str, Any]) -> None:
        """Changes the spec as `kubectl patch` does."""
        self.stack.user.patch(names.DISK_MIGRATIONS, self.name, {"spec": spec}, namespace=NAMESPACE)

    def delete(self) -> None:
        """`kubectl delete --wait=false`, of one that may be gone already."""
        self.stack.user.delete(names.DISK_MIGRATIONS, self.name, NAMESPACE)

    def is_gone(self) -> bool:
        """Whether the object is not there any more."""
        return self.stack.cluster.get(names.DISK_MIGRATIONS, self.name, NAMESPACE) is None

    def wait_for_phase(self, *phases: str, seconds: float = 60) -> dict[str, Any]:
        """The status as soon as it has one of the phases; a final phase that is not among them is a failure."""
        return wait_until(lambda: self._in_phase(phases), f"{self.name} is {' or '.join(phases)}", seconds=seconds)

    def _in_phase(self, phases: tuple[str, ...]) -> dict[str, Any] | None:
        status = self.status()
        phase = status.get("phase")
        assert phase in phases or phase not in FINAL, f"{self.name} is {phase}: {status.get('failure')}"
        return status if phase in phases else None

    def succeed(self, *, seconds: float = 60) -> dict[str, Any]:
        """The status once it has succeeded."""
        return self.wait_for_phase("Succeeded", seconds=seconds)

    def lost_track(self) -> str:
        """What it says while it waits for the end of a QEMU of which libvirt has lost track; else nothing."""
        message = str(self.condition("Succeeded")["message"])
        return message if "lost track" in message else ""

    def is_stalled_by(self, reason: str) -> bool:
        """Whether it waits for somebody, for that reason."""
        found = {condition["type"]: condition for condition in self.status().get("conditions", [])}
        stalled = found.get("Stalled", {})
        return bool(stalled.get("status") == "True" and stalled.get("reason") == reason)

    def condition(self, kind: str) -> dict[str, Any]:
        """One condition."""
        return next(found for found in self.status()["conditions"] if found["type"] == kind)


def storage_domain(domain: Domain, *, allowed: tuple[str, ...] = (NAMESPACE,), **spec: Any) -> dict[str, Any]:
    """The StorageDomain object, with small sizes, so that extensions are soon and many."""
    thin = {
        "highWatermark": WATERMARK_BYTES,
        "chunkSize": CHUNK_BYTES,
        "replicationChunkSize": REPLICATION_CHUNK_BYTES,
    }
    return {
        "apiVersion": "diskmigration.dev/v1alpha1",
        "kind": "StorageDomain",
        # Tests delete it while VMs and migrations use it.
        "metadata": {"name": domain.name, "annotations": {"diskmigration.dev/delete-in-use": "true"}},
        "spec": {
            domain.kind: domain.place,
            "allowedNamespaces": list(allowed),
            **({"thinProvisioning": thin} if domain.disk_type == "block" else {}),
            **spec,
        },
    }


def make_domain(directory: Path, name: str, kind: str) -> Domain:
    """A directory for a storage domain."""
    root = directory / name
    root.mkdir()
    return Domain(name, kind, root)
