"""Which namespace may move the disks of a VM. Pure.

A storage domain says who may use the storage; a VM says whose it is, in its libvirt metadata:
`<owner xmlns="https://diskmigration.dev/owner/v1" namespace="vms"/>`.
"""

from collections.abc import Sequence
from enum import Enum

from diskmigration.api.storage_domain import StorageDomain

OWNER_URI = "https://diskmigration.dev/owner/v1"
"""The XML namespace of the element `owner` in a VM's metadata."""


class Right(Enum):
    """The right of a namespace to a VM."""

    MOVE = "move"
    KNOW = "know"
    """It may know of the VM, and not move it: nobody says whose it is, and others may use its storage as well."""
    NOTHING = "nothing"
    """It may not learn that there is such a VM."""


def right_of(namespace: str, *, owner: str, sides: Sequence[StorageDomain], system_namespace: str) -> Right:
    """Return what a namespace may do with a VM of that `owner`, the empty one if it has none.

    `sides` are the storage domains of the move that are known. A VM without an owner is moved from a namespace only if
    no other one may use any of them.
    """
    if namespace == system_namespace:
        return Right.MOVE
    if owner:
        return Right.MOVE if owner == namespace else Right.NOTHING
    if not sides or not all(side.allows(namespace, system_namespace=system_namespace) for side in sides):
        return Right.NOTHING
    is_alone = all(side.spec.allowed_namespaces == (namespace,) for side in sides)
    return Right.MOVE if is_alone else Right.KNOW


def how_to_own(vm: str, namespace: str) -> str:
    """Return what an administrator does to say that a VM, named as a shell takes it, is a namespace's."""
    element = f"<owner namespace='{namespace}'/>"
    command = f'virsh metadata {vm} --uri {OWNER_URI} --key diskmigration --config --set "{element}"'
    return f"`{command}`, with `--live` as well while it runs"
