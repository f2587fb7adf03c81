"""What the API server takes, what it fills in, what it refuses and what it says then."""

import json
from typing import Any

import pytest

from diskmigration.api import names
from testbed.control_plane import ControlPlane
from testbed.processes import TestbedError
from tests.integration.api.conftest import Apply
from tests.integration.api.manifests import domain, migration
from tests.integration.user import User

FILE = {"path": "/srv/vmdisks"}
UUID = "0f6c0f1a-6f5e-4a41-8c1c-2b0c9b1f7c11"


def test_a_migration_gets_its_defaults(apply: Apply) -> None:
    found = apply(migration())
    assert found["spec"] == {
        "virtualMachine": {"name": "web-1"},
        "disk": "vda",
        "destination": {"storageDomainName": "nfs", "format": "qcow2", "provisioning": "Thin"},
        "backingChain": "Preserve",
        "strategy": "Snapshot",
        "copyMode": "Background",
        "cutover": {"policy": "Automatic"},
        "suspend": False,
        "cancel": False,
        "sourceVolumes": "Delete",
        "progressTimeoutSeconds": 900,
        "backoffLimit": 3,
    }
    assert found["status"] == {"observedGeneration": -1}


def test_a_storage_domain_gets_its_defaults(apply: Apply) -> None:
    defaults = {"maxConcurrentMigrations": 4, "maxSynchronizedMigrations": 20, "allowManagedElsewhere": False}
    made = apply(domain(file=FILE))
    assert made["spec"] == {"file": FILE, **defaults}
    assert made["status"] == {"observedGeneration": -1}
    found = apply(domain("san", loop=FILE, thinProvisioning={}))
    assert found["spec"]["thinProvisioning"] == {
        "highWatermark": "512Mi",
        "chunkSize": "1Gi",
        "replicationChunkSize": "2Gi",
    }


ACCEPTED = {
    "every field": migration(
        virtualMachine={"name": "web 1", "uuid": UUID, "nodeName": "node-a"},
        destination={"storageDomainName": "nfs.archive", "format": "raw", "provisioning": "Thick"},
        backingChain="Flatten",
        strategy="Direct",
        copyMode="WriteBlocking",
        bandwidth="200Mi",
        cutover={"policy": "Manual", "notBefore": "2026-12-01T02:00:00Z"},
        suspend=True,
        sourceVolumes="Retain",
        progressTimeoutSeconds=1,
        activeDeadlineSeconds=1,
        backoffLimit=0,
        ttlSecondsAfterFinished=0,
    ),
    "a vm by its uuid alone": migration(virtualMachine={"uuid": UUID}),
    "the least bandwidth": migration(bandwidth="64Ki"),
    "the most bandwidth": migration(bandwidth="1Ti"),
    "bandwidth as a number": migration(bandwidth=1048576),
    "bandwidth in decimal units": migration(bandwidth="1.5G"),
    "a window in another time zone": migration(cutover={"notBefore": "2026-12-01T02:00:00+02:00"}),
    "a file domain": domain(file=FILE, nodeSelector={"zone": "a"}, allowedNamespaces=["*"]),
    "a loop domain": domain(loop=FILE, thinProvisioning={"chunkSize": "64Mi", "highWatermark": 1048576}),
    "an lvm domain": domain(lvm={"volumeGroup": "vg_fast"}, allowedNamespaces=["vms", "db-1"]),
    "a file named with dots": domain(file={"path": "/srv/..disks/a..b"}),
}


@pytest.mark.parametrize("manifest", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(apply: Apply, manifest: dict[str, Any]) -> None:
    apply(manifest, dry_run=True)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no vm": (migration(virtualMachine=None), "virtualMachine: Required"),
    "a vm by nothing": (migration(virtualMachine={"nodeName": "a"}), "name the VM by its name, its uuid, or both"),
    "a vm name with a slash": (migration(virtualMachine={"name": "../a"}), "virtualMachine.name"),
    "a vm name with a newline": (migration(virtualMachine={"name": "a\nb"}), "virtualMachine.name"),
    "an empty vm name": (migration(virtualMachine={"name": ""}), "virtualMachine.name"),
    "no uuid": (migration(virtualMachine={"uuid": "web-1"}), "virtualMachine.uuid"),
    "no disk": (migration(disk=None), "disk: Required"),
    "a disk by its path": (migration(disk="/dev/vda"), "spec.disk"),
    "a disk like an option": (migration(disk="--all"), "spec.disk"),
    "no destination": (migration(destination=None), "destination: Required"),
    "a destination by its path": (migration(destination={"storageDomainName": "/srv"}), "storageDomainName"),
    "a destination of nothing": (migration(destination={}), "storageDomainName: Required"),
    "another format": (migration(destination={"storageDomainName": "a", "format": "vmdk"}), "destination.format"),
    "raw with a chain": (
        migration(destination={"storageDomainName": "a", "format": "raw"}),
        "set backingChain to Flatten",
    ),
    "another provisioning": (migration(destination={"storageDomainName": "a", "provisioning": "thin"}), "provisioning"),
    "another chain": (migration(backingChain="Collapse"), "backingChain"),
    "another strategy": (migration(strategy="Offline"), "strategy"),
    "another copy mode": (migration(copyMode="Fast"), "copyMode"),
    "bandwidth zero": (migration(bandwidth="0"), "between 64Ki and 1Ti a second"),
    "bandwidth zero as a number": (migration(bandwidth=0), "between 64Ki and 1Ti a second"),
    "negative bandwidth": (migration(bandwidth="-200Mi"), "between 64Ki and 1Ti a second"),
    "absurd bandwidth": (migration(bandwidth="5Ei"), "between 64Ki and 1Ti a second"),
    "bandwidth in no unit": (migration(bandwidth="200MB"), "must be a quantity of bytes a second"),
    "bandwidth in words": (migration(bandwidth="fast"), "must be a quantity of bytes a second"),
    "bandwidth as a fraction": (migration(bandwidth=1.5), "bandwidth"),
    "another cutover": (migration(cutover={"policy": "Later"}), "cutover.policy"),
    # The server itself takes it, where the schema says `format: date-time`, and then no status can be applied.
    "a window in a list": (migration(cutover={"notBefore": ["2026-12-01T02:00:00Z"]}), "cutover.notBefore"),
    "a window on no day": (migration(cutover={"notBefore": "2026-02-30T00:00:00Z"}), "must be a moment"),
    "a window in words": (migration(cutover={"notBefore": "tomorrow"}), "cutover.notBefore"),
    "a window without a time zone": (migration(cutover={"notBefore": "2026-12-01T02:00:00"}), "cutover.notBefore"),
    "no time for progress": (migration(progressTimeoutSeconds=0), "progressTimeoutSeconds"),
    "no time at all": (migration(activeDeadlineSeconds=0), "activeDeadlineSeconds"),
    "a negative backoff": (migration(backoffLimit=-1), "backoffLimit"),
    "an absurd backoff": (migration(backoffLimit=1000000), "backoffLimit"),
    "a negative ttl": (migration(ttlSecondsAfterFinished=-1), "ttlSecondsAfterFinished"),
    "a field that is not there": (migration(bandwith="1Mi"), "bandwith"),
    "a domain of no kind": (domain(), "set exactly one of file, lvm and loop"),
    "a domain of two kinds": (domain(file=FILE, loop=FILE), "set exactly one of file, lvm and loop"),
    "a relative path": (domain(file={"path": "srv"}), "file.path"),
    "the root": (domain(file={"path": "/"}), "file.path"),
    "a path that goes up": (domain(file={"path": "/srv/../etc"}), "the path must be plain"),
    "a path that ends up": (domain(loop={"path": "/srv/.."}), "the path must be plain"),
    "a path with a slash at its end": (domain(file={"path": "/srv/"}), "the path must be plain"),
    "a path with an empty part": (domain(file={"path": "/srv//a"}), "the path must be plain"),
    "a path with a newline": (domain(file={"path": "/srv/a\nb"}), "file.path"),
    "a volume group like an option": (domain(lvm={"volumeGroup": "-f"}), "lvm.volumeGroup"),
    "a volume group by its path": (domain(lvm={"volumeGroup": "vg/lv"}), "lvm.volumeGroup"),
    "thin provisioning of files": (domain(file=FILE, thinProvisioning={}), "thinProvisioning is for block domains"),
    "a chunk of nothing": (domain(loop=FILE, thinProvisioning={"chunkSize": "0"}), "chunkSize must be between"),
    "a negative chunk": (domain(loop=FILE, thinProvisioning={"chunkSize": "-1Gi"}), "chunkSize must be between"),
    "an absurd watermark": (domain(loop=FILE, thinProvisioning={"highWatermark": "1Ei"}), "highWatermark must be"),
    "a chunk in no unit": (domain(loop=FILE, thinProvisioning={"chunkSize": "1GB"}), "must be a quantity of bytes"),
    "a floor of nothing": (domain(file=FILE, minAvailable="0"), "minAvailable must be between 1Mi and 1Ei"),
    "a floor of all": (domain(file=FILE, minAvailable="100%"), "minAvailable must be a quantity of bytes"),
    "a floor of some bytes": (domain(file=FILE, minAvailable=5), "minAvailable must be between 1Mi and 1Ei"),
    "an absurd floor": (domain(file=FILE, minAvailable="2Ei"), "minAvailable must be between 1Mi and 1Ei"),
    "a floor with an absurd exponent": (
        domain(file=FILE, minAvailable="1e999999999"),
        "minAvailable must be a quantity of bytes",
    ),
    "a floor of a fraction": (domain(file=FILE, minAvailable="1.5%"), "minAvailable must be a quantity of bytes"),
    "no migrations at once": (domain(file=FILE, maxConcurrentMigrations=0), "maxConcurrentMigrations"),
    "a namespace that cannot be": (domain(file=FILE, allowedNamespaces=["VMs"]), "allowedNamespaces"),
    "a name that is too long": (domain("a" * 64, file=FILE), "metadata.name"),
}


@pytest.mark.parametrize(("manifest", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(apply: Apply, manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(TestbedError) as refused:
        apply(manifest, dry_run=True)
    assert message in str(refused.value)


FULL_SPEC: dict[str, Any] = ACCEPTED["every field"]["spec"]
FROZEN: dict[str, Any] = {
    "virtualMachine": {**FULL_SPEC["virtualMachine"], "name": "web-2"},
    "disk": "vdb",
    "destination": {**FULL_SPEC["destination"], "provisioning": "Thin"},
    "strategy": "Snapshot",
    "copyMode": "Background",
    "sourceVolumes": "Delete",
    "progressTimeoutSeconds": 2,
    "activeDeadlineSeconds": 2,
    "backoffLimit": 1,
}


@pytest.mark.parametrize(("field", "value"), FROZEN.items(), ids=FROZEN)
def test_frozen(apply: Apply, field: str, value: object) -> None:
    apply(migration(**FULL_SPEC))
    with pytest.raises(TestbedError, match=f"{field} cannot be changed; make another DiskMigration"):
        apply(migration(**{**FULL_SPEC, field: value}))


def test_a_frozen_field_cannot_be_removed_either(apply: Apply) -> None:
    apply(migration(**FULL_SPEC))
    with pytest.raises(TestbedError, match="activeDeadlineSeconds cannot be changed"):
        apply(migration(**{**FULL_SPEC, "activeDeadlineSeconds": None}))
    with pytest.raises(TestbedError, match="virtualMachine cannot be changed"):
        apply(migration(**{**FULL_SPEC, "virtualMachine": {"name": "web 1"}}))


def test_the_chain_is_frozen(apply: Apply) -> None:
    apply(migration(backingChain="Preserve"))
    with pytest.raises(TestbedError, match="backingChain cannot be changed"):
        apply(migration(backingChain="Flatten"))


MUTABLE: dict[str, Any] = {
    "bandwidth": "1Gi",
    "cutover": {"policy": "Automatic"},
    "suspend": False,
    "cancel": True,
    "ttlSecondsAfterFinished": 60,
}


@pytest.mark.parametrize(("field", "value"), MUTABLE.items(), ids=MUTABLE)
def test_mutable(apply: Apply, field: str, value: object) -> None:
    apply(migration(**FULL_SPEC))
    changed = apply(migration(**{**FULL_SPEC, field: value}))
    assert changed["spec"][field] == value
    assert changed["metadata"]["generation"] == 2


@pytest.mark.parametrize("field", ["bandwidth", "ttlSecondsAfterFinished"])
def test_a_mutable_field_can_be_removed(apply: Apply, field: str) -> None:
    apply(migration(**FULL_SPEC))
    assert field not in apply(migration(**{**FULL_SPEC, field: None}))["spec"]


@pytest.mark.parametrize("back", [False, None])
def test_a_cancel_is_never_taken_back(apply: Apply, back: bool | None) -> None:
    apply(migration(cancel=True))
    with pytest.raises(TestbedError, match="a cancelled migration cannot be taken up again"):
        apply(migration(cancel=back))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"file": FILE}, {"loop": FILE}),
        ({"file": FILE}, {"file": {"path": "/srv/other"}}),
        ({"loop": FILE}, {"loop": {"path": "/srv/other"}}),
        ({"lvm": {"volumeGroup": "a"}}, {"lvm": {"volumeGroup": "b"}}),
    ],
)
def test_a_storage_domain_stays_where_it_is(apply: Apply, before: dict[str, Any], after: dict[str, Any]) -> None:
    apply(domain(**before))
    with pytest.raises(TestbedError, match="cannot be changed; make another StorageDomain"):
        apply(domain(**after))


@pytest.mark.parametrize("floor", ["1%", "99%", "100Gi", "1Ei", "200M", 1048576])
def test_a_floor_is_a_quantity_or_a_percentage(apply: Apply, floor: object) -> None:
    assert apply(domain(file=FILE, minAvailable=floor), dry_run=True)["spec"]["minAvailable"] == floor


def test_a_storage_domains_limits_may_change(apply: Apply) -> None:
    apply(domain(loop=FILE, thinProvisioning={"chunkSize": "1Gi"}, maxConcurrentMigrations=1))
    changed = apply(domain(loop=FILE, thinProvisioning={"chunkSize": "2Gi"}, allowedNamespaces=["vms"]))
    assert changed["spec"]["thinProvisioning"]["chunkSize"] == "2Gi"
    assert changed["spec"]["maxConcurrentMigrations"] == 4


def set_status(user: User, namespace: str, name: str, status: dict[str, Any]) -> None:
    user.patch(names.DISK_MIGRATIONS, name, {"status": status}, namespace=namespace, subresource="status")


def test_a_migration_stays_with_its_node(apply: Apply, user: User, namespace: str) -> None:
    apply(migration())
    set_status(user, namespace, "web-1", {"phase": "Pending"})
    set_status(user, namespace, "web-1", {"nodeName": "node-a"})
    set_status(user, namespace, "web-1", {"nodeName": "node-a", "phase": "Snapshotting"})
    for other in ("node-b", "", None):
        with pytest.raises(TestbedError, match="nodeName cannot be changed once it is set"):
            set_status(user, namespace, "web-1", {"nodeName": other})


def test_a_status_is_checked_too(apply: Apply, user: User, namespace: str) -> None:
    apply(migration())
    for wrong in ({"phase": "Done"}, {"conditions": [{"type": "Ready"}]}, {"progress": {"percent": "87%"}}):
        with pytest.raises(TestbedError, match="invalid"):
            set_status(user, namespace, "web-1", wrong)


def test_a_spec_cannot_be_written_with_the_status(apply: Apply, control_plane: ControlPlane, namespace: str) -> None:
    apply(migration())
    control_plane.kubectl(
        "patch",
        "diskmigration",
        "web-1",
        f"--namespace={namespace}",
        "--subresource=status",
        "--type=merge",
        '--patch={"spec":{"cancel":true}}',
    )
    found = json.loads(control_plane.kubectl("get", "dm", "web-1", f"--namespace={namespace}", "--output=json"))
    assert found["spec"]["cancel"] is False


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("status.nodeName=node-a", ["one"]),
        ("status.nodeName=node-b", ["other"]),
        ("status.nodeName!=node-a", ["other", "waiting"]),
        ("status.nodeName=", ["waiting"]),
        ("status.phase=Replicating", ["one"]),
        ("spec.virtualMachine.name=vm-other", ["other"]),
        ("spec.destination.storageDomainName=nfs,status.nodeName=node-b", ["other"]),
        ("spec.destination.storageDomainName=san", []),
    ],
)
def test_the_server_selects(
    apply: Apply, user: User, control_plane: ControlPlane, namespace: str, selector: str, expected: list[str]
) -> None:
    for name in ("one", "other", "waiting"):
        apply(migration(name, virtualMachine={"name": f"vm-{name}"}))
    set_status(user, namespace, "one", {"nodeName": "node-a", "phase": "Replicating"})
    set_status(user, namespace, "other", {"nodeName": "node-b", "phase": "Merging"})
    printed = control_plane.kubectl(
        "get", "dm", f"--namespace={namespace}", f"--field-selector={selector}", "--output=name"
    )
    assert [line.partition("/")[2] for line in printed.split()] == expected


def columns(control_plane: ControlPlane, *arguments: str) -> tuple[list[str], list[str]]:
    header, row = control_plane.kubectl("get", *arguments).splitlines()
    return header.split(), row.split()


def test_the_columns_of_a_migration(apply: Apply, user: User, control_plane: ControlPlane, namespace: str) -> None:
    apply(migration())
    status = {
        "nodeName": "node-a",
        "phase": "Replicating",
        "source": {"storageDomainName": "san", "type": "Block"},
        "display": {"progress": "87%", "allocated": "3.0Gi", "rate": "210.0Mi/s", "retained": "2"},
        "progress": {"estimatedCompletionTime": "2026-01-01T00:00:00Z"},
        "queuePosition": 7,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "CopyFailed",
                "message": "No.",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    set_status(user, namespace, "web-1", status)
    header, row = columns(control_plane, "dm", f"--namespace={namespace}")
    assert header == ["NAME", "VM", "DISK", "FROM", "TO", "PHASE", "PROGRESS", "ALLOCATED", "REASON", "AGE"]
    assert row[:-1] == ["web-1", "web-1", "vda", "san", "nfs", "Replicating", "87%", "3.0Gi", "CopyFailed"]
    header, row = columns(control_plane, "dm", f"--namespace={namespace}", "--output=wide")
    assert header[-6:] == ["NODE", "RATE", "ETA", "QUEUE", "RETAINED", "MESSAGE"]
    assert row[-6:] == ["node-a", "210.0Mi/s", "2026-01-01T00:00:00Z", "7", "2", "No."]


def test_the_columns_of_a_storage_domain(apply: Apply, control_plane: ControlPlane) -> None:
    apply(domain("columns", loop=FILE))
    ready = {"type": "Ready", "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    display = {"available": "3.0Gi", "capacity": "10.0Gi", "active": "3/4"}
    status = {"status": {"type": "Block", "readyNodes": 3, "conditions": [ready], "display": display}}
    control_plane.kubectl(
        "patch", "sd", "columns", "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"
    )
    header, row = columns(control_plane, "sd", "columns")
    assert header == ["NAME", "TYPE", "READY", "NODES", "FREE", "CAPACITY", "ACTIVE", "AGE"]
    assert row[:-1] == ["columns", "Block", "True", "3", "3.0Gi", "10.0Gi", "3/4"]


def test_the_columns_of_a_libvirt_host(apply: Apply, control_plane: ControlPlane) -> None:
    apply({"apiVersion": "diskmigration.dev/v1alpha1", "kind": "LibvirtHost", "metadata": {"name": "node-columns"}})
    ready = {"type": "Ready", "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    versions = {"libvirtVersion": "9.0.0", "qemuVersion": "7.2.22", "virtualMachineCount": 2}
    status = {"status": {**versions, "conditions": [ready]}}
    control_plane.kubectl(
        "patch", "lvh", "node-columns", "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"
    )
    header, row = columns(control_plane, "lvh", "node-columns")
    assert header == ["NAME", "READY", "VMS", "LIBVIRT", "QEMU", "AGE"]
    assert row[:-1] == ["node-columns", "True", "2", "9.0.0", "7.2.22"]


@pytest.mark.parametrize("kind", ["diskmigrations.spec.cutover.notBefore", "sd.spec.thinProvisioning", "lvh.status"])
def test_every_field_explains_itself(control_plane: ControlPlane, kind: str) -> None:
    assert "<no description>" not in control_plane.kubectl("explain", kind)
