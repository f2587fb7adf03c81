"""What cannot be moved is refused with its documented reason and what to do, and nothing is touched."""

import hashlib
import shlex
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testbed.processes import TestbedError
from tests.integration.migrations.machines import CAPACITY_BYTES, MEBIBYTE, Domain, Machine
from tests.integration.migrations.stack import FINAL, NAMESPACE, Migration, Stack, make_domain, storage_domain
from tests.variants import first_by_day, some_by_day
from tests.waiting import wait_until

Machines = Callable[..., Machine]


def evidence(stack: Stack, machine: Machine) -> tuple[str, str, dict[Path, str]]:
    """All that a migration could touch: both XMLs of the VM, and every byte of every volume of every domain."""
    files = {
        file: hashlib.sha256(file.read_bytes()).hexdigest()
        for domain in stack.domains.values()
        for file in domain.root.rglob("*")
        if file.is_file() and not file.is_symlink()
    }
    return machine.xml(), machine.host.virsh("dumpxml", machine.uuid, "--inactive"), files


@contextmanager
def untouched(stack: Stack, machine: Machine, *, reads: bool = True) -> Iterator[None]:
    """Nothing of the VM, of its volumes or of the storage domains is changed by what is done meanwhile.

    A running VM's disk is read too, if it holds what the test has written.
    """
    wait_until_known(stack, machine)
    before = evidence(stack, machine)
    assert "journal" not in before[0]
    yield
    assert evidence(stack, machine) == before
    if reads and machine.state() != "shut off":
        machine.verify()


def wait_until_known(stack: Stack, machine: Machine) -> None:
    """Waits until the operator can know of the VM, whatever its state."""
    wait_until(
        lambda: machine.uuid in [vm["uuid"] for vm in stack.host_object().get("status", {}).get("virtualMachines", [])],
        f"the inventory has {machine.name}",
    )


def assert_refused(migration: Migration, reason: str, *words: str) -> None:
    """It fails with the reason, in the status and in the conditions, and its message has these words."""
    status = migration.wait_for_phase("Failed", seconds=30)
    failure = status["failure"]
    assert failure["reason"] == reason, failure
    assert all(word in failure["message"] for word in words), failure["message"]
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    assert (conditions["Succeeded"]["status"], conditions["Succeeded"]["reason"]) == ("False", reason)
    assert conditions["Succeeded"]["message"] == failure["message"]
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Reconciling"]["status"] == "False"
    assert status["observedGeneration"] == migration.get()["metadata"]["generation"]
    if "nodeName" not in status:
        assert conditions["Accepted"]["status"] == "False"


def refuse(stack: Stack, machine: Machine, reason: str, *words: str, to: str = "file-b", **spec: Any) -> None:
    """A migration of the VM's disk is refused, and nothing is touched."""
    with untouched(stack, machine):
        assert_refused(stack.migrate(machine.name, to, **spec), reason, *words)


@pytest.fixture
def administrator(stack: Stack) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Applies StorageDomains for one test, and waits until the node has told of each."""
    made: list[str] = []

    def apply(document: dict[str, Any]) -> None:
        name = document["metadata"]["name"]
        made.append(name)
        stack.apply(document)
        wait_until(
            lambda: name in [one["name"] for one in stack.host_object()["status"].get("storageDomains", [])],
            f"the node has told of {name}",
        )

    yield apply
    for name in made:
        stack.control_plane.kubectl("delete", "storagedomain", name)


def test_no_such_vm(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    with untouched(stack, machine):
        migration = stack.migrate("no-such-vm", "file-b")
        assert_refused(migration, "VirtualMachineNotFound", "no-such-vm", "kubectl get libvirthosts")


def test_a_name_and_a_uuid_that_belong_to_two_vms(stack: Stack, machines: Machines) -> None:
    machine, other = machines("file-a"), machines("file-a")
    wait_until_known(stack, other)
    pair = {"name": machine.name, "uuid": other.uuid}
    refuse(stack, machine, "VirtualMachineNotFound", other.name, "one VM", virtualMachine=pair)


def test_no_such_disk(stack: Stack, machines: Machines) -> None:
    refuse(stack, machines("file-a"), "DiskNotFound", "vdz", "vda", disk="vdz")


@pytest.mark.parametrize("medium", first_by_day(["in a storage domain", "elsewhere", "none"]))
def test_a_cdrom(stack: Stack, machines: Machines, scratch: Path, medium: str) -> None:
    image = (stack.domains["file-a"].root if medium == "in a storage domain" else scratch) / "medium.iso"
    image.write_bytes(b"medium" * 1000)
    source = "" if medium == "none" else f"<source file='{image}'/>"
    cdrom = f"<disk type='file' device='cdrom'>{source}<target dev='hdc' bus='ide'/><readonly/></disk>"
    refuse(stack, machines("file-a", devices=cdrom), "DiskNotSupported", "hdc", "Cdrom", disk="hdc")


def test_a_read_only_disk(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", target_options="<readonly/>")
    refuse(stack, machine, "DiskNotSupported", "read-only")


@pytest.mark.nightly
def test_a_shareable_disk(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", base_format="raw", target_options="<shareable/>")
    refuse(stack, machine, "DiskNotSupported", "shareable")


@pytest.mark.nightly
def test_a_network_disk(stack: Stack, machines: Machines, scratch: Path) -> None:
    image, socket = scratch / "image", scratch / "nbd"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", image, "16M"], check=True)
    server = subprocess.Popen(["qemu-nbd", "--persistent", "--format=raw", f"--socket={socket}", image])
    try:
        wait_until(socket.exists, "the NBD server listens")
        stack.host.give_to_qemu(socket)
        disk = f"""<disk type='network' device='disk'><driver name='qemu' type='raw'/>
            <source protocol='nbd'><host transport='unix' socket='{socket}'/></source>
            <target dev='vdb' bus='virtio'/></disk>"""
        machine = machines("file-a", devices=disk)
        refuse(stack, machine, "DiskNotSupported", "Network", "files and block devices", disk="vdb")
    finally:
        server.terminate()
        server.wait()


@pytest.mark.nightly
def test_an_nvme_disk(stack: Stack, machines: Machines) -> None:
    disk = """<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>
        <source type='pci' managed='yes' namespace='1'>
        <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>
        <target dev='vdb' bus='virtio'/></disk>"""
    # No controller is here to give to a VM, so this one cannot be started; the type is judged before the state.
    machine = machines("file-a", devices=disk, start=False)
    refuse(stack, machine, "DiskNotSupported", "Nvme", "files and block devices", disk="vdb")


@pytest.fixture
def secret(stack: Stack, scratch: Path) -> Iterator[str]:
    """A secret of libvirt's: its uuid. Its passphrase is in the file `passphrase`."""
    identity = str(uuid.uuid4())
    definition = scratch / "secret.xml"
    definition.write_text(f"<secret ephemeral='no' private='no'><uuid>{identity}</uuid></secret>")
    passphrase = scratch / "passphrase"
    passphrase.write_text("a passphrase")
    stack.host.virsh("secret-define", str(definition))
    stack.host.virsh("secret-set-value", identity, "--file", str(passphrase), "--plain")
    yield identity
    stack.host.virsh("secret-undefine", identity)


def encrypt(volume: Path, image_format: str, scratch: Path, *backing: str) -> None:
    options = {
        "qcow2": "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
        "luks": "key-secret=key,iter-time=10",
    }
    key = ["--object", f"secret,id=key,file={scratch / 'passphrase'}"]
    create = ["qemu-img", "create", "-q", *key, "-f", image_format, "-o", options[image_format], *backing]
    subprocess.run([*create, volume, str(CAPACITY_BYTES)], check=True)


def redefine(machine: Machine, change: Callable[[str], str]) -> None:
    """Defines a VM that is off anew."""
    with machine.host.domain(machine.name) as domain:
        domain.connect().defineXML(change(machine.xml(inactive=True)))


def _encrypted(*values: str, quick: bool = False) -> Any:
    return pytest.param(*values, marks=[] if quick else [pytest.mark.nightly])


@pytest.mark.parametrize("runs", first_by_day([True, False]), ids=["running", "off"])
@pytest.mark.parametrize(
    ("image_format", "place"),
    [
        _encrypted("luks", "</disk>", quick=True),
        _encrypted("luks", "</source>"),
        _encrypted("qcow2", "</disk>"),
        _encrypted("qcow2", "</source>"),
    ],
)
def test_an_encrypted_disk(
    stack: Stack, machines: Machines, scratch: Path, secret: str, image_format: str, place: str, runs: bool
) -> None:
    machine = machines("file-a", start=False)
    [volume] = machine.volumes
    encrypt(volume, image_format, scratch)
    encryption = f"<encryption format='luks'><secret type='passphrase' uuid='{secret}'/></encryption>"
    source = f"<source file='{volume}'/>"

    def change(document: str) -> str:
        with_format = document.replace("type='qcow2'", f"type='{'raw' if image_format == 'luks' else 'qcow2'}'")
        return with_format.replace(source, f"{source[:-2]}></source>").replace(place, encryption + place, 1)

    redefine(machine, change)
    if runs:
        machine.host.virsh("start", machine.name, "--paused")
    assert "<encryption" in machine.xml()
    with untouched(stack, machine, reads=False):
        assert_refused(stack.migrate(machine.name, "file-b"), "DiskNotSupported", "encrypted")


@pytest.mark.nightly
@pytest.mark.parametrize("runs", [True, False], ids=["running", "off"])
def test_an_encrypted_volume_below_a_plain_one(
    stack: Stack, machines: Machines, scratch: Path, secret: str, runs: bool
) -> None:
    machine = machines("file-a", chain=2, start=False)
    base, top = machine.volumes
    encrypt(base, "qcow2", scratch)
    below = f"""<backingStore type='file'><format type='qcow2'/><source file='{base}'><encryption format='luks'>
    <secret type='passphrase' uuid='{secret}'/></encryption></source><backingStore/></backingStore>"""
    redefine(machine, lambda document: document.replace(f"<source file='{top}'/>", f"<source file='{top}'/>{below}"))
    if runs:
        machine.host.virsh("start", machine.name, "--paused")
    with untouched(stack, machine, reads=False):
        assert_refused(stack.migrate(machine.name, "file-b"), "DiskNotSupported", "encrypted")


def with_copy_on_read(machine: Machine) -> None:
    redefine(machine, lambda document: document.replace("cache='none'", "cache='none' copy_on_read='on'"))


@pytest.mark.nightly
def test_a_disk_with_copy_on_read_moves_without_a_snapshot_only(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2, start=False)
    with_copy_on_read(machine)
    machine.host.virsh("start", machine.name, "--paused")
    refuse(stack, machine, "DiskNotSupported", "copy_on_read", "strategy: Direct")

    stack.migrate(machine, "file-b", strategy="Direct").succeed()

    assert "copy_on_read='on'" in machine.xml()
    assert all(path.startswith(str(stack.domains["file-b"].root)) for path, _ in machine.chain())
    machine.write(offset=70 * MEBIBYTE, length=MEBIBYTE, pattern=7)
    machine.verify()


@pytest.mark.nightly
def test_a_move_of_a_disk_with_copy_on_read_can_be_cancelled_before_its_pivot(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2, start=False)
    with_copy_on_read(machine)
    machine.host.virsh("start", machine.name, "--paused")
    chain = machine.chain()
    migration = stack.migrate(machine, "file-b", strategy="Direct", cutover={"policy": "Manual"})
    migration.wait_for_phase("Synchronized")
    machine.write(offset=70 * MEBIBYTE, length=MEBIBYTE, pattern=7)

    migration.patch({"cancel": True})
    migration.wait_for_phase("Cancelled")

    assert machine.chain() == chain
    assert "copy_on_read='on'" in machine.xml()
    assert stack.domains["file-b"].files() == []
    machine.verify()


@pytest.mark.nightly
def test_a_disk_with_copy_on_read_of_a_vm_that_is_off_moves(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a", chain=2, start=False)
    with_copy_on_read(machine)
    stack.migrate(machine, "file-b").succeed()
    machine.host.virsh("start", machine.name, "--paused")
    machine.verify()


NOVA = (
    '<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>web</nova:name></nova:instance>'
)


@pytest.mark.parametrize("runs", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_vm_that_another_system_manages(
    stack: Stack,
    machines: Machines,
    scratch: Path,
    administrator: Callable[[dict[str, Any]], None],
    runs: bool,
) -> None:
    source, destination = (make_domain(scratch, name, "file") for name in ("from-nova", "to-nova"))
    administrator(storage_domain(source, allowManagedElsewhere=True))
    administrator(storage_domain(destination))
    machine = machines(source, start=False)
    redefine(machine, lambda document: document.replace("<memory", f"<metadata>{NOVA}</metadata><memory", 1))
    if runs:
        machine.host.virsh("start", machine.name, "--paused")
    words = ("OpenStack", "instead", "allowManagedElsewhere", "to-nova")
    refuse(stack, machine, "ManagedElsewhere", *words, to="to-nova")

    stack.apply(storage_domain(destination, allowManagedElsewhere=True))
    wait_until(lambda: moves(stack, machine, "to-nova"), "the agent knows that it may")

    if not runs:
        machine.host.virsh("start", machine.name, "--paused")
    assert machine.chain()[0][0].startswith(str(destination.root))
    assert "nova:instance" in machine.xml()
    machine.verify()


def moves(stack: Stack, machine: Machine, to: str) -> bool:
    """Whether a migration that is made now succeeds; else it is refused as the VM is managed elsewhere."""
    migration = stack.migrate(machine.name, to)
    wait_until(lambda: migration.phase() in FINAL, "it has ended", seconds=60)
    status = migration.status()
    assert status["phase"] == "Succeeded" or status["failure"]["reason"] == "ManagedElsewhere", status
    return bool(status["phase"] == "Succeeded")


def test_a_disk_under_a_block_job(stack: Stack, machines: Machines, scratch: Path) -> None:
    machine = machines("file-a")
    copy = scratch / "copy"
    stack.host.virsh("blockcopy", machine.name, "vda", f"--dest={copy}", "--format=qcow2", "--transient-job")
    wait_until(lambda: "ready='yes'" in machine.xml(), "the foreign copy is ready")
    refuse(stack, machine, "DiskBusy", "copy", f"virsh blockjob {machine.name} vda --abort")
    stack.host.virsh("blockjob", machine.name, "vda", "--abort")


def test_a_vm_with_a_checkpoint(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    stack.host.virsh("checkpoint-create-as", machine.name, "backed-up")
    refuse(stack, machine, "DiskBusy", "backed-up", "strategy: Direct")


def test_a_source_outside_every_storage_domain(stack: Stack, machines: Machines, scratch: Path) -> None:
    machine = machines(make_domain(scratch, "elsewhere", "file"))
    refuse(stack, machine, "VirtualMachineNotFound", "ownerNamespace")
    stack.give(machine, NAMESPACE)
    refuse(stack, machine, "SourceNotInStorageDomain", "StorageDomain")


@pytest.mark.parametrize(("base", "top"), first_by_day([("file-a", "loop-a"), ("loop-a", "file-a")]))
def test_a_chain_spread_over_storage_domains(stack: Stack, machines: Machines, base: str, top: str) -> None:
    below = machines(base, start=False)
    machine = machines(top, below=(below.volumes[0], "qcow2"))
    refuse(stack, machine, "SourceNotInStorageDomain", "file-a", "loop-a")


def test_an_unknown_destination(stack: Stack, machines: Machines) -> None:
    refuse(stack, machines("file-a"), "StorageDomainNotFound", "nowhere", "kubectl get storagedomains", to="nowhere")


def test_a_destination_that_is_not_ready(
    stack: Stack, machines: Machines, scratch: Path, administrator: Callable[[dict[str, Any]], None]
) -> None:
    administrator(storage_domain(Domain("missing", "file", scratch / "missing")))
    refuse(stack, machines("file-a"), "StorageDomainNotReady", str(scratch / "missing"), "mount it", to="missing")
    assert not (scratch / "missing").exists()


def test_a_full_destination(
    stack: Stack, machines: Machines, scratch: Path, administrator: Callable[[dict[str, Any]], None]
) -> None:
    small = make_domain(scratch, "small", "file")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small.root], check=True)
    try:
        administrator(storage_domain(small))
        refuse(stack, machines("file-a"), "DestinationFull", "small", "4Mi", "choose another", to="small")
        assert small.files() == []
    finally:
        subprocess.run(["umount", small.root], check=True)


def test_a_destination_with_room_for_the_data_but_not_for_the_next_chunk(
    stack: Stack, machines: Machines, scratch: Path, administrator: Callable[[dict[str, Any]], None]
) -> None:
    small = make_domain(scratch, "small", "loop")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small.root], check=True)
    try:
        administrator(storage_domain(small))
        machine = machines("file-a", chain=2)
        chain, files = machine.chain(), stack.domains["file-a"].files()
        # It is measured once the snapshot has frozen the chain: that one is merged back.
        assert_refused(stack.migrate(machine, "small"), "DestinationFull", "small", "24Mi", "choose another")
        assert small.files() == []
        assert (machine.chain(), stack.domains["file-a"].files()) == (chain, files)
        wait_until(lambda: not machine.has_journal(), "the disk is free")
        machine.verify()
    finally:
        subprocess.run(["umount", small.root], check=True)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_namespace_that_is_not_allowed(
    stack: Stack, machines: Machines, scratch: Path, administrator: Callable[[dict[str, Any]], None], side: str
) -> None:
    closed = make_domain(scratch, "closed", "file")
    administrator(storage_domain(closed, allowed=("others",)))
    source, destination = (closed, "file-b") if side == "source" else ("file-a", "closed")
    machine = machines(source)
    stack.give(machine, NAMESPACE)
    refuse(stack, machine, "NamespaceNotAllowed", "closed", side, NAMESPACE, "allowedNamespaces", to=destination)
    assert closed.files() == [volume.name for volume in machine.volumes if side == "source"]


def test_a_vm_of_another_namespace_is_not_told_from_none(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    stack.give(machine, "others")
    with untouched(stack, machine):
        there = stack.migrate(machine.name, "file-b").wait_for_phase("Failed", seconds=30)["failure"]
    assert there["reason"] == "VirtualMachineNotFound"
    none = stack.migrate("none", "file-b").wait_for_phase("Failed", seconds=30)["failure"]
    assert there["message"].replace(machine.name, "none") == none["message"]


def test_a_vm_of_nobody_on_shared_storage_domains_is_moved_once_it_is_said_whose_it_is(
    stack: Stack, machines: Machines, scratch: Path, administrator: Callable[[dict[str, Any]], None]
) -> None:
    shared = make_domain(scratch, "shared", "file")
    administrator(storage_domain(shared, allowed=(NAMESPACE, "others")))
    machine = machines(shared)
    failure = stack.migrate(machine.name, "file-b").wait_for_phase("Failed", seconds=30)["failure"]
    assert failure["reason"] == "NamespaceNotAllowed"
    [advice] = [words for words in failure["message"].split("`") if words.startswith("virsh ")]
    stack.host.virsh(*shlex.split(advice)[1:], "--live")
    wait_until(lambda: (stack.shown(machine) or {}).get("ownerNamespace") == NAMESPACE, "the node tells whose it is")
    stack.migrate(machine, "file-b").succeed()
    machine.verify()


def test_a_second_migration_of_the_same_disk(stack: Stack, machines: Machines) -> None:
    machine = machines("file-a")
    first = stack.migrate(machine, "file-b", cutover={"policy": "Manual"})
    first.wait_for_phase("Synchronized")
    waiting = [stack.migrate(machine.name, destination) for destination in ("loop-b", "file-b")]
    for second in waiting:
        message = wait_until(partial(busy_message, second), f"{second.name} waits for its disk")
        assert first.name in message
        assert "cancel" in message
        assert "nodeName" not in second.status()
    assert stack.domains["loop-b"].files() == []
    machine.verify()

    waiting[0].patch({"cancel": True})
    waiting[0].wait_for_phase("Cancelled")
    first.patch({"cutover": {"policy": "Automatic"}})
    first.succeed()
    waiting[1].succeed()
    machine.verify()


def busy_message(migration: Migration) -> str:
    """Return why it is not accepted, if that is that another one has its disk."""
    conditions = {found["type"]: found for found in migration.status().get("conditions", [])}
    accepted = conditions.get("Accepted", {"reason": ""})
    return str(accepted["message"]) if accepted["reason"] == "DiskBusy" else ""


@pytest.mark.skipif(Path("/dev/mapper/control").exists(), reason="the kernel has device-mapper")
def test_a_volume_group_on_a_node_without_device_mapper(
    stack: Stack, machines: Machines, administrator: Callable[[dict[str, Any]], None]
) -> None:
    administrator(
        {
            "apiVersion": "diskmigration.dev/v1alpha1",
            "kind": "StorageDomain",
            "metadata": {"name": "san"},
            "spec": {"lvm": {"volumeGroup": "vg_san"}, "allowedNamespaces": [NAMESPACE]},
        }
    )
    refuse(stack, machines("file-a"), "StorageDomainNotReady", "san", "load the kernel's module `dm_mod`", to="san")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"destination": {"format": "raw"}}, "set backingChain to Flatten"),
        ({"bandwidth": 0}, "between 64Ki and 1Ti"),
        ({"bandwidth": "0"}, "between 64Ki and 1Ti"),
        ({"bandwidth": -1}, "between 64Ki and 1Ti"),
        ({"bandwidth": "-200Mi"}, "between 64Ki and 1Ti"),
        ({"bandwidth": "1000Ei"}, "between 64Ki and 1Ti"),
        ({"bandwidth": "1e999999999"}, "bandwidth"),
        ({"bandwidth": "fast"}, "must be a quantity of bytes a second"),
        ({"bandwidth": ""}, "must be a quantity of bytes a second"),
        ({"progressTimeoutSeconds": 0}, "progressTimeoutSeconds"),
        ({"activeDeadlineSeconds": -1}, "activeDeadlineSeconds"),
        ({"backoffLimit": -1}, "backoffLimit"),
        ({"ttlSecondsAfterFinished": -1}, "ttlSecondsAfterFinished"),
        ({"disk": "../../vda"}, "disk"),
        ({"destination": {"storageDomainName": "/etc"}}, "storageDomainName"),
    ],
)
def test_a_migration_that_kubectl_apply_refuses(stack: Stack, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(TestbedError, match="DiskMigration") as refused:
        stack.migrate("vm", "file-b", **spec)
    assert words in str(refused.value)


@pytest.mark.parametrize("size", first_by_day(["highWatermark", "chunkSize", "replicationChunkSize"]))
@pytest.mark.parametrize("value", some_by_day([0, -1, "-1Gi", "0", "1", "1000Ei", "much"], 3))
def test_a_storage_domain_that_kubectl_apply_refuses(stack: Stack, scratch: Path, size: str, value: int | str) -> None:
    domain = make_domain(scratch, f"odd-{uuid.uuid4().hex[:8]}", "loop")
    with pytest.raises(TestbedError, match="StorageDomain") as refused:
        stack.apply(storage_domain(domain, thinProvisioning={size: value}))
    assert size in str(refused.value)
