import pytest

from diskmigration.agent.hypervisor.qemu_user import label_in_capabilities, label_in_domain

LIVE = """<domain type='kvm' id='1'><name>v</name>
  <seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-1</label></seclabel>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+107</label><imagelabel>+64055:+107</imagelabel>
  </seclabel></domain>"""
STATIC = """<domain><seclabel type='static' model='dac' relabel='no'><label>+1000:+1000</label></seclabel></domain>"""
# A disk's own seclabel says nothing of the process.
OFF = """<domain><devices><disk><source file='/a'>
  <seclabel model='dac' relabel='no'/></source></disk></devices></domain>"""
CAPABILITIES = """<capabilities><host><uuid>1</uuid>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+107</baselabel>
  <baselabel type='qemu'>+64055:+107</baselabel></secmodel></host></capabilities>"""


@pytest.mark.parametrize(("document", "label"), [(LIVE, "+64055:+107"), (STATIC, "+1000:+1000"), (OFF, None)])
def test_the_user_of_a_vm_is_that_of_its_own_label(document: str, label: str | None) -> None:
    assert label_in_domain(document) == label


def test_the_user_of_a_host_is_that_of_its_dac_driver() -> None:
    assert label_in_capabilities(CAPABILITIES) == "+64055:+107"
    assert label_in_capabilities("<capabilities><host/></capabilities>") is None
