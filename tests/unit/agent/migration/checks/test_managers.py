"""Which VMs another system manages, by what it writes into their XML, and who may move them all the same."""

import pytest

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.migration.checks.managers import require_not_managed_elsewhere
from diskmigration.api.errors import MigrationError, Reason
from tests.unit.agent.builders import storage_domain

CLOUDSTACK_HARDWARE = """<sysinfo type='smbios'><system>
<entry name='manufacturer'>Apache Software Foundation</entry><entry name='product'>CloudStack KVM Hypervisor</entry>
</system></sysinfo>"""


def described(*, name: str = "web-1", metadata: str = "", more: str = "") -> domain_xml.DomainDescription:
    return domain_xml.parse(
        f"<domain><name>{name}</name><uuid>u</uuid><metadata>{metadata}</metadata>{more}<devices/></domain>"
    )


MANAGED = {
    "OpenStack": described(
        metadata='<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>a</nova:name>'
        "</nova:instance>"
    ),
    "OpenStack, before": described(metadata='<n:instance xmlns:n="http://openstack.org/xmlns/libvirt/nova/1.0"/>'),
    "oVirt": described(metadata='<ovirt-vm:vm xmlns:ovirt-vm="http://ovirt.org/vm/1.0"/>'),
    "oVirt, tune": described(metadata='<ovirt-tune:qos xmlns:ovirt-tune="http://ovirt.org/vm/tune/1.0"/>'),
    "OpenNebula": described(metadata='<one:vm xmlns:one="http://opennebula.org/xmlns/libvirt/1.0"/>'),
    "KubeVirt": described(metadata='<kubevirt xmlns="http://kubevirt.io"><uid/></kubevirt>'),
    "IronCore": described(metadata='<l:metadata xmlns:l="https://github.com/ironcore-dev/libvirt-provider"/>'),
    "CloudStack": described(more=CLOUDSTACK_HARDWARE),
    "CloudStack, a guest": described(name="i-2-14-VM"),
    "CloudStack, a router": described(name="r-4-VM"),
}
OWN = {
    "plain": described(),
    "libosinfo": described(metadata='<i:libosinfo xmlns:i="http://libosinfo.org/xmlns/libvirt/domain/1.0"/>'),
    "ours": described(metadata='<d:journal xmlns:d="https://diskmigration.dev/journal/v1/vda"/>'),
    "a name that begins alike": described(name="i-2-14-VM-copy"),
    "another product": described(more=CLOUDSTACK_HARDWARE.replace("CloudStack KVM", "Acme")),
    # libvirt keeps the declaration of a namespace whose element is gone.
    "a namespace without an element": domain_xml.parse(
        '<domain xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><name>a</name><devices/></domain>'
    ),
}


@pytest.mark.parametrize("manager", MANAGED)
def test_a_vm_of_another_system_is_refused_and_told_what_to_use(manager: str) -> None:
    with pytest.raises(MigrationError) as refused:
        require_not_managed_elsewhere(MANAGED[manager], storage_domain("a"), storage_domain("b"))
    assert refused.value.reason is Reason.MANAGED_ELSEWHERE
    message = refused.value.message
    assert manager.partition(",")[0] in message
    assert "instead" in message
    assert "allowManagedElsewhere" in message


@pytest.mark.parametrize("vm", OWN)
def test_a_vm_that_nobody_else_manages_is_free(vm: str) -> None:
    require_not_managed_elsewhere(OWN[vm], storage_domain("a"), storage_domain("b"))


@pytest.mark.parametrize("closed", [("a",), ("b",), ("a", "b"), ()])
def test_both_storage_domains_must_allow_it(closed: tuple[str, ...]) -> None:
    sides = [storage_domain(name, allowManagedElsewhere=name not in closed) for name in ("a", "b")]
    if not closed:
        require_not_managed_elsewhere(MANAGED["oVirt"], *sides)
        return
    with pytest.raises(MigrationError) as refused:
        require_not_managed_elsewhere(MANAGED["oVirt"], *sides)
    assert all((f"StorageDomain {name}" in refused.value.message) == (name in closed) for name in ("a", "b"))
