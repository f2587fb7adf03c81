"""Local storage of several nodes: a StorageDomain for each, at the same path, that selects its node by a label."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from diskmigration.api.names import STORAGE_DOMAINS
from tests.integration.migrations.machines import Domain, Machine, empty
from tests.integration.migrations.stack import NODE, Stack, make_domain, storage_domain
from tests.waiting import wait_until

Machines = Callable[..., Machine]

LABEL = "disktest.example.com/host"
THIS, OTHER = "this", "other"


@dataclass(frozen=True)
class Local:
    """The same directory as two storage domains: that of this node, and that of another."""

    this: Domain
    other: Domain

    def document(self, name: str) -> dict[str, Any]:
        """The StorageDomain of this node or of the other."""
        return storage_domain(getattr(self, name), nodeSelector={LABEL: name})


@pytest.fixture(params=["file", pytest.param("loop", marks=pytest.mark.nightly)])
def kind(request: pytest.FixtureRequest) -> str:
    """What the volumes are."""
    return str(request.param)


@pytest.fixture
def local(stack: Stack, kind: str) -> Iterator[Local]:
    """Neither StorageDomain is there yet. Asked for before `machines`, whose VMs have to be gone at its end."""
    suffix = uuid.uuid4().hex[:8]
    this = make_domain(stack.domains["file-a"].root.parent, f"this-{suffix}", kind)
    found = Local(this, Domain(f"other-{suffix}", kind, this.root))
    label(stack, THIS)
    yield found
    stack.control_plane.kubectl("delete", "storagedomain", "--ignore-not-found", this.name, found.other.name)
    stack.control_plane.kubectl("label", "node", NODE, f"{LABEL}-")
    empty(this)


def label(stack: Stack, value: str) -> None:
    stack.control_plane.kubectl("label", "node", NODE, f"{LABEL}={value}", "--overwrite")


def apply_all(stack: Stack, local: Local, order: tuple[str, ...]) -> None:
    """Applies both in this order; the agent has seen the first before the second comes."""
    for name in order:
        stack.apply(local.document(name))
        if name == THIS:
            wait_until(lambda: local.this.name in served(stack), "this node serves its own", seconds=60)
        else:
            wait_until(lambda: is_known(stack, local.other.name), "the operator knows the other's")
    assert local.other.name not in served(stack)


def is_known(stack: Stack, name: str) -> bool:
    found = stack.cluster.get(STORAGE_DOMAINS, name)
    return found is not None and bool(found.get("status"))


def served(stack: Stack) -> set[str]:
    """The storage domains that the node says that it reaches."""
    found = stack.host_object().get("status", {}).get("storageDomains", [])
    return {each["name"] for each in found if each["ready"]}


def home_of(stack: Stack, machine: Machine) -> str | None:
    """The storage domain in which the LibvirtHost has the VM's disk, empty for none; None while it has no such VM."""
    disks = stack.shown_disks(machine)
    return str(disks[machine.target].get("storageDomainName", "")) if disks else None


@pytest.mark.parametrize(
    "order",
    [(OTHER, THIS), pytest.param((THIS, OTHER), marks=pytest.mark.nightly)],
    ids=lambda order: f"{order[0]}-first",
)
def test_a_disk_is_in_the_domain_of_its_node_and_moves_from_and_to_it(
    stack: Stack, local: Local, machines: Machines, order: tuple[str, ...]
) -> None:
    apply_all(stack, local, order)
    machine = machines(local.this)
    away = stack.migrate(machine, "file-b")
    away.succeed()
    assert away.status()["source"]["storageDomainName"] == local.this.name
    machine.verify()

    stack.migrate(machine, local.this.name).succeed()
    machine.verify()
    wait_until(lambda: home_of(stack, machine) == local.this.name, "the inventory has it there")
    # A second one finds it where it is, and copies nothing.
    again = stack.migrate(machine, local.this.name)
    again.succeed()
    assert again.condition("Succeeded")["reason"] == "AlreadyAtDestination"


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_a_disk_is_in_the_domain_that_took_the_place_of_a_deleted_one(
    stack: Stack, local: Local, machines: Machines
) -> None:
    before = Domain(f"before-{local.this.name}", local.this.kind, local.this.root)
    stack.make_ready({before.name: before})
    machine = machines(local.this)
    wait_until(lambda: home_of(stack, machine) == before.name, "it is in the first", seconds=60)
    stack.control_plane.kubectl("delete", "storagedomain", before.name)
    wait_until(lambda: home_of(stack, machine) == "", "it is in none", seconds=60)
    stack.apply(local.document(THIS))
    wait_until(lambda: home_of(stack, machine) == local.this.name, "it is in the new one", seconds=60)
    stack.migrate(machine, "file-b").succeed()
    machine.verify()


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_a_disk_is_in_another_domain_once_the_node_has_another_label(
    stack: Stack, local: Local, machines: Machines
) -> None:
    apply_all(stack, local, (OTHER, THIS))
    machine = machines(local.this)
    wait_until(lambda: home_of(stack, machine) == local.this.name, "it is in this node's", seconds=60)
    label(stack, OTHER)
    wait_until(lambda: home_of(stack, machine) == local.other.name, "it is in the other's", seconds=90)
    stack.migrate(machine, "file-b").succeed()
    machine.verify()
