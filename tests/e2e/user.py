"""What a user of the cluster has and does: a guest that writes, and `kubectl apply`."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import processes
from testbed.cluster import STORAGE_ROOT, Cluster, Node
from testbed.guest.domain import Disk, Writer
from testbed.guest.records import Layout
from testbed.guest.running import Guest, running_guest, verify_volume

NAMESPACE = "vms"
FILES = "files"
LOOPS = "loops"
FINAL = ("Succeeded", "Failed", "Cancelled")
_DISK_BYTES = 512 * 2**20
_SPAN_BYTES = 192 * 2**20
# Slow enough for a thin volume to last while no agent is there to extend it: some seconds in an update.
_RECORDS_PER_SECOND = 20


@dataclass(frozen=True)
class GuestOnNode:
    """A guest that writes to its disk vda."""

    node: Node
    guest: Guest
    scratch: Path

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.guest.name

    @property
    def active_path(self) -> Path:
        """The path of the disk's active layer, as the node has it."""
        return Path(self.node.libvirt.virsh("domblklist", self.name).split()[1])

    def goes_on(self) -> None:
        """Waits until it has written once more."""
        self.guest.console.wait_for_more(1)

    def stop_and_verify(self) -> None:
        """Powers it off and checks every record that it was told is written."""
        path = self.active_path
        self.guest.power_off()
        on_this_machine = self.node.on_this_machine(path)
        report = verify_volume(
            on_this_machine, "qcow2", self.guest.writer, self.guest.console.acknowledged, self.scratch
        )
        assert report.ok, report


@contextmanager
def writing_guest(node: Node, name: str, scratch: Path) -> Iterator[GuestOnNode]:
    """A guest of the node, on a thin file of the storage domain `files`; it has written when the block begins."""
    path = STORAGE_ROOT / FILES / f"{name}.qcow2"
    processes.run(["qemu-img", "create", "-q", "-f", "qcow2", node.on_this_machine(path), str(_DISK_BYTES)])
    writer = Writer(Layout(seed=int(time.time()), span_bytes=_SPAN_BYTES), records_per_second=_RECORDS_PER_SECOND)
    directory = scratch / node.name
    directory.mkdir(exist_ok=True)
    with running_guest(node.libvirt, name, [Disk(path)], writer=writer, directory=directory) as guest:
        guest.console.wait_for_record(10, timeout_seconds=90)
        made = GuestOnNode(node, guest, directory)
        yield made
        path = made.active_path
    _remove(node, path)
    left = [file for root in (FILES, LOOPS) for file in (node.storage / root).rglob("*") if not file.is_dir()]
    assert left == [], "volumes that nobody owns"


def _remove(node: Node, path: Path) -> None:
    """Removes a volume as an administrator does."""
    volume = node.on_this_machine(path)
    if volume.is_symlink():
        processes.run(["losetup", "--detach", volume.readlink()])
        (volume.parents[1] / volume.name).unlink()
    volume.unlink()


@dataclass(frozen=True)
class Migration:
    """A DiskMigration that a user applied."""

    cluster: Cluster
    name: str

    def status(self) -> dict[str, Any]:
        """Its status as it is now."""
        found = json.loads(
            self.cluster.kubectl("get", "diskmigration", self.name, f"--namespace={NAMESPACE}", "--output=json")
        )
        status: dict[str, Any] = found.get("status", {})
        return status

    def wait_for_phase(self, *phases: str, seconds: float = 90) -> dict[str, Any]:
        """The status as soon as it is in one of the phases; a final phase that is not among them is a failure."""
        deadline = time.monotonic() + seconds
        while (phase := (status := self.status()).get("phase")) not in phases:
            told = f"{self.name} is {phase}: {json.dumps(status)}"
            assert phase not in FINAL, told
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        return status

    def succeed(self, *, seconds: float = 120) -> dict[str, Any]:
        """The status once it has succeeded."""
        return self.wait_for_phase("Succeeded", seconds=seconds)

    def let_pivot(self) -> None:
        """Ends the waiting for the cutover."""
        patch = json.dumps({"spec": {"cutover": {"policy": "Automatic"}}})
        self.cluster.kubectl(
            "patch", "diskmigration", self.name, f"--namespace={NAMESPACE}", "--type=merge", f"--patch={patch}"
        )


def apply_migration(
    cluster: Cluster, name: str, vm: str, *, to: str, node: str | None = None, **spec: Any
) -> Migration:
    """`kubectl apply` of a DiskMigration of the disk vda."""
    machine = {"name": vm, **({"nodeName": node} if node is not None else {})}
    document = {
        "apiVersion": "diskmigration.dev/v1alpha1",
        "kind": "DiskMigration",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"virtualMachine": machine, "disk": "vda", "destination": {"storageDomainName": to}, **spec},
    }
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(document))
    return Migration(cluster, name)


def storage_domains() -> str:
    """One of each kind below the path that the agents' pods are given; small sizes, so that extensions are soon."""
    domains = (
        {"file": {"path": str(STORAGE_ROOT / FILES)}},
        {
            "loop": {"path": str(STORAGE_ROOT / LOOPS)},
            "thinProvisioning": {"highWatermark": "16Mi", "chunkSize": "16Mi", "replicationChunkSize": "32Mi"},
        },
    )
    items = [
        {
            "apiVersion": "diskmigration.dev/v1alpha1",
            "kind": "StorageDomain",
            "metadata": {"name": name},
            "spec": {**domain, "allowedNamespaces": [NAMESPACE]},
        }
        for name, domain in zip((FILES, LOOPS), domains, strict=True)
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
