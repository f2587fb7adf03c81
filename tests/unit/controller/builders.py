"""Objects as the API server sends them, with only what a test cares about said."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from diskmigration.api import names
from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.controller.cluster_inventory import ClusterInventory
from diskmigration.controller.liveness import Liveness
from diskmigration.controller.records import Migration, read_domain, read_migration

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 2**30

_versions = count(1)


def moment(seconds: float = 0) -> str:
    return (EPOCH + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def domain_body(
    name: str, *, kind: str = "file", limit: int = 4, namespaces: tuple[str, ...] = ("vms",), generation: int = 1
) -> dict[str, Any]:
    place = {"volumeGroup": "vg"} if kind == "lvm" else {"path": f"/srv/{name}"}
    metadata = {"name": name, "uid": f"uid-{name}", "generation": generation, "resourceVersion": str(next(_versions))}
    return {
        "metadata": metadata,
        "spec": {kind: place, "maxConcurrentMigrations": limit, "allowedNamespaces": list(namespaces)},
    }


def disk(
    target: str = "vda", *, domain: str = "a", kind: str = "File", capacity: int = 10 * GIB, allocated: int = GIB
) -> dict[str, Any]:
    return {
        "target": target,
        "storageDomainName": domain,
        "type": kind,
        "format": "qcow2",
        "capacityBytes": capacity,
        "allocatedBytes": allocated,
    }


def machine(
    name: str,
    *,
    uuid: str = "",
    state: str = "Running",
    disks: list[dict[str, Any]] | None = None,
    owner: str = "",
) -> dict[str, Any]:
    """`owner` is the namespace that it belongs to."""
    said = {"name": name, "uuid": uuid or f"uuid-{name}", "state": state, "disks": [disk()] if disks is None else disks}
    return {**said, "ownerNamespace": owner} if owner else said


def report(
    name: str,
    *,
    ready: bool = True,
    reason: str = "",
    available: int = 1000 * GIB,
    group: str = "",
    lock_type: str = "none",
) -> dict[str, Any]:
    """`group` is the uuid of the domain's volume group."""
    said = {"name": name, "ready": ready, "reason": reason, "capacityBytes": 1000 * GIB, "availableBytes": available}
    return {**said, "volumeGroup": {"uuid": group, "lockType": lock_type}} if group else said


def host_body(
    node: str,
    machines: list[dict[str, Any]],
    domains: list[dict[str, Any]] | None = None,
    *,
    complaint: str = "",
) -> dict[str, Any]:
    """`complaint` is why the agent does not know its VMs at the moment."""
    ready = {
        "type": "Ready",
        "status": "False" if complaint else "True",
        "reason": "HypervisorUnavailable" if complaint else "LibvirtAnswers",
        "message": complaint,
        "lastTransitionTime": moment(),
    }
    return {
        "metadata": {"name": node, "uid": f"uid-{node}", "resourceVersion": str(next(_versions))},
        "status": {
            "conditions": [ready],
            "virtualMachines": machines,
            "storageDomains": [report("a"), report("b")] if domains is None else domains,
        },
    }


def migration_body(
    name: str,
    *,
    namespace: str = "vms",
    uid: str = "",
    created: float = 0,
    vm: str = "web-1",
    to: str = "b",
    spec: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    finalizers: tuple[str, ...] = (),
    deleted: bool = False,
    generation: int = 1,
) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{namespace}-{name}",
        "generation": generation,
        "resourceVersion": str(next(_versions)),
        "creationTimestamp": moment(created),
        "finalizers": list(finalizers),
        "labels": {"app": "not-read"},
    }
    if deleted:
        metadata["deletionTimestamp"] = moment(created + 1)
    whole = {"virtualMachine": {"name": vm}, "disk": "vda", "destination": {"storageDomainName": to}, **(spec or {})}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "DiskMigration",
        "metadata": metadata,
        "spec": whole,
        "status": {"observedGeneration": -1} if status is None else status,
    }


def migration(name: str = "m", **said: Any) -> Migration:
    return read_migration(migration_body(name, **said))


def inventory(
    hosts: list[dict[str, Any]],
    domains: list[dict[str, Any]],
    *,
    live: set[str] | None = None,
    unjudged: set[str] | None = None,
) -> ClusterInventory:
    made = ClusterInventory()
    for body in domains:
        made.put_domain(read_domain(body))
    for body in hosts:
        made.put_host(LibvirtHost.from_wire(body))
    names_live = live if live is not None else {body["metadata"]["name"] for body in hosts}
    made.set_liveness(Liveness(frozenset(names_live), frozenset(unjudged or ())))
    return made
