"""On which node the VM of a migration is. Pure."""

import shlex
from collections import defaultdict
from collections.abc import Callable

from diskmigration.api.disk_migration import DiskMigrationSpec
from diskmigration.api.errors import Reason
from diskmigration.api.libvirt_host import VirtualMachine
from diskmigration.api.vm_owner import Right, how_to_own
from diskmigration.controller import dependencies
from diskmigration.controller.cluster_inventory import ClusterInventory, LocatedMachine
from diskmigration.controller.dependencies import Dependency
from diskmigration.controller.placement_outcome import NotPlaceableError


def find_machine(
    spec: DiskMigrationSpec,
    inventory: ClusterInventory,
    watched: set[Dependency],
    *,
    namespace: str,
    right_to: Callable[[VirtualMachine], Right],
) -> LocatedMachine:
    """Return the VM and its node, and add to `watched` the dependencies that this was judged by.

    `right_to` tells what the migration's namespace may do with a VM: it is looked for among those that it may move, and
    of no other one anything is told.

    Raises:
        NotPlaceableError: there is none, there is more than one, or its node is not there.
    """
    wanted = spec.virtual_machine
    by_right: defaultdict[Right, list[LocatedMachine]] = defaultdict(list)
    for one in _called_so(spec, inventory, watched):
        by_right[right_to(one.machine)].append(one)
    matching = _meant(spec, by_right[Right.MOVE])
    if not matching and _meant(spec, by_right[Right.KNOW]):
        name = wanted.name or wanted.uuid or ""
        raise NotPlaceableError(Reason.NAMESPACE_NOT_ALLOWED, belongs_to_nobody(name, namespace))
    watched |= {dependencies.node(one.node) for one in matching}
    if not matching:
        raise NotPlaceableError(Reason.VIRTUAL_MACHINE_NOT_FOUND, _not_found(spec, by_right[Right.MOVE]))
    if unjudged := [one.node for one in matching if inventory.is_unjudged(one.node)]:
        raise NotPlaceableError(
            Reason.VIRTUAL_MACHINE_NOT_FOUND,
            f"It is not known yet whether the agents on these nodes are alive: {', '.join(unjudged)}.",
            is_provisional=True,
        )
    if len(matching) > 1:
        matching = _where_it_is(matching, inventory)
    if len(matching) > 1:
        nodes = ", ".join(f"{one.node} (uuid {one.machine.uuid})" for one in matching)
        raise NotPlaceableError(
            Reason.VIRTUAL_MACHINE_AMBIGUOUS,
            f"VM {wanted} is on several nodes: {nodes}. "
            "Make a new DiskMigration that says which with virtualMachine.uuid or virtualMachine.nodeName.",
        )
    located = matching[0]
    if (other := _where_it_runs_else(located, inventory)) is not None:
        raise NotPlaceableError(Reason.VIRTUAL_MACHINE_AMBIGUOUS, _runs_elsewhere(spec, located.node, other, inventory))
    if not inventory.is_live(located.node):
        raise NotPlaceableError(
            Reason.VIRTUAL_MACHINE_NOT_FOUND,
            f"VM {wanted} was last seen on node {located.node}, whose agent does not renew its Lease. "
            "Check the agent's pod on that node.",
        )
    if complaint := inventory.complaint(located.node):
        raise NotPlaceableError(
            Reason.HYPERVISOR_UNAVAILABLE,
            f"The agent on node {located.node} does not know its VMs at the moment: {complaint}",
        )
    return located


def _called_so(spec: DiskMigrationSpec, inventory: ClusterInventory, watched: set[Dependency]) -> list[LocatedMachine]:
    """Return the VMs of the wanted uuid, or of the wanted name where no uuid is given."""
    wanted = spec.virtual_machine
    if wanted.uuid:
        watched.add(dependencies.machine_uuid(wanted.uuid))
        return inventory.machines_with_uuid(wanted.uuid)
    watched.add(dependencies.machine_name(wanted.name or ""))
    return inventory.machines_named(wanted.name or "")


def _meant(spec: DiskMigrationSpec, machines: list[LocatedMachine]) -> list[LocatedMachine]:
    wanted = spec.virtual_machine
    return [
        one
        for one in machines
        if (not wanted.name or one.machine.name == wanted.name)
        and (not wanted.node_name or one.node == wanted.node_name)
    ]


def belongs_to_nobody(vm: str, namespace: str) -> str:
    """Return why a namespace may not move a VM without an owner, and what to do; `vm` is its name or uuid."""
    return (
        f"Nobody says to which namespace VM {vm} belongs, and other namespaces than {namespace} may use the "
        "StorageDomains of this move as well. Ask an administrator to say that it is this one's, on the VM's node: "
        f"{how_to_own(shlex.quote(vm), namespace)}."
    )


def _where_it_is(machines: list[LocatedMachine], inventory: ClusterInventory) -> list[LocatedMachine]:
    """Return where one VM is that several nodes report: where it runs, and not where a node that is away saw it last.

    Two VMs that share a name stay ambiguous, whatever they do and whether or not their nodes are there.
    """
    if len({one.machine.uuid.lower() for one in machines}) > 1:
        return machines
    live = [one for one in machines if inventory.is_live(one.node)]
    known = [one for one in live if not inventory.complaint(one.node)] or live or machines
    running = [one for one in known if one.machine.state.has_process]
    return running if len(running) == 1 else known


def _where_it_runs_else(located: LocatedMachine, inventory: ClusterInventory) -> str | None:
    """Another node on which the VM runs, if it is shut off on this one."""
    if located.machine.state.has_process:
        return None
    known = inventory.machines_with_uuid(located.machine.uuid)
    return next((one.node for one in known if one.machine.state.has_process), None)


def _runs_elsewhere(spec: DiskMigrationSpec, node: str, other: str, inventory: ClusterInventory) -> str:
    what = f"VM {spec.virtual_machine} is shut off on node {node}"
    if inventory.is_live(other):
        return (
            f"{what}, and runs on node {other}, where its disk is in use. "
            f"Make a new DiskMigration for node {other}, or undefine the VM on node {node}."
        )
    return (
        f"{what}, and was last seen running on node {other}, whose agent does not renew its Lease: its disk may be in "
        f"use there. Check the agent's pod on node {other}, or delete that Node object if the node never comes back."
    )


def _not_found(spec: DiskMigrationSpec, found: list[LocatedMachine]) -> str:
    wanted = spec.virtual_machine
    on = f" on node {wanted.node_name}" if wanted.node_name else " on any node with an agent"
    if found:
        seen = ", ".join(f'"{one.machine.name}" on node {one.node}' for one in found)
        return f"There is no VM {wanted}{on}; what comes nearest: {seen}. Name and uuid must belong to one VM."
    return (
        f"There is no VM {wanted}{on} that this namespace may move. Administrators see the VMs that are known in "
        "`kubectl get libvirthosts -o yaml`: one belongs to its ownerNamespace, and one that has none to the namespace "
        "that alone may use its disk's StorageDomain."
    )
