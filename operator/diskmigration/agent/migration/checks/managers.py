"""Whether another system manages a VM: it would neither learn of a move nor expect one.

Sources: NOVA_NS in nova/virt/libvirt/config.py, METADATA_VM_* in vdsm's lib/vdsm/virt/metadata.py and xmlconstants.py,
LibVirtDriver in OpenNebula's LibVirtDriverKVM.cc, KubeVirt's virt-launcher/virtwrap/api, IronCore libvirt-provider's
internal/libvirt/meta, CloudStack's LibvirtVMDef.java and VirtualMachineName.java.
"""

import re
from dataclasses import dataclass

from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain


@dataclass(frozen=True)
class _Manager:
    name: str
    instead: str
    """How its user moves a disk with it."""
    namespace: str = ""
    """How the XML namespace begins that it has in a VM's metadata."""


_CLOUDSTACK = _Manager("CloudStack", "its API `migrateVolume`")
_MANAGERS = (
    _Manager("OpenStack", "`openstack volume migrate`", "http://openstack.org/xmlns/libvirt/nova/"),
    _Manager("oVirt", "Move in its list of disks", "http://ovirt.org/vm/"),
    _Manager("OpenNebula", "`onevm migrate` to another datastore", "http://opennebula.org/xmlns/libvirt/"),
    _Manager("KubeVirt", "updateVolumesStrategy: Migration in its VirtualMachine", "http://kubevirt.io"),
    _Manager("IronCore", "its Volume and Machine objects", "https://github.com/ironcore-dev/libvirt-provider"),
)
_CLOUDSTACK_PRODUCT = re.compile(r"CloudStack \S+ Hypervisor")
_CLOUDSTACK_NAME = re.compile(r"(i-\d+-\d+|[rsv]-\d+)-VM")


def require_not_managed_elsewhere(description: DomainDescription, *sides: StorageDomain) -> None:
    """Raise ManagedElsewhere if another system manages the VM, unless both storage domains allow that."""
    manager = _manager_of(description)
    closed = [side.metadata.name for side in sides if not side.spec.allow_managed_elsewhere]
    if manager is None or not closed:
        return
    raise MigrationError(
        Reason.MANAGED_ELSEWHERE,
        f"The VM {description.name} is managed by {manager.name}, which would not learn of the move. Use "
        f"{manager.instead} instead. If you know that {manager.name} can bear it, ask an administrator to set "
        f"spec.allowManagedElsewhere of {' and '.join(f'the StorageDomain {name}' for name in closed)}.",
    )


def _manager_of(description: DomainDescription) -> _Manager | None:
    for manager in _MANAGERS:
        if any(namespace.startswith(manager.namespace) for namespace in description.metadata_namespaces):
            return manager
    if _CLOUDSTACK_PRODUCT.fullmatch(description.product) or _CLOUDSTACK_NAME.fullmatch(description.name):
        return _CLOUDSTACK
    return None
