"""Every volume that a document of libvirt's names, however it names it."""

from diskmigration.agent.hypervisor.source_xml import NamedSource, named_sources
from tests.unit.agent.hypervisor import samples


def test_every_source_of_a_snapshot_is_found() -> None:
    snapshot = f"""<domainsnapshot><name>before</name>
      <memory snapshot='external' file='/srv/vmdisks/before.memory'/>
      <disks><disk name='vda' snapshot='external' type='file'>
        <driver type='qcow2'/><source file='/srv/vmdisks/over&amp;lay'/>
      </disk></disks>
      {samples.domain(samples.CHAIN_OF_THREE, samples.NETWORK)}
      <inactiveDomain>{samples.domain(samples.COPY)}</inactiveDomain>
    </domainsnapshot>"""
    found = {source.path: source for source in named_sources(snapshot)}
    assert found["/srv/vmdisks/over&lay"] == NamedSource("/srv/vmdisks/over&lay", "qcow2")
    assert found["/srv/vmdisks/before.memory"].format == "raw"
    assert found["/srv/vmdisks/top.qcow2"].is_walked
    assert found.keys() >= {"/srv/vmdisks/middle.qcow2", "/dev/vg0/base"}
    assert "" not in found


def test_a_volume_of_a_pool_is_named_by_the_pool() -> None:
    xml = samples.domain(
        """<disk type='volume' device='disk'><driver type='qcow2'/><source pool='gold' volume='web-1'/>
        <target dev='vda'/></disk>"""
    )
    assert named_sources(xml) == (NamedSource("", "qcow2", pool="gold", volume="web-1"),)


def test_a_medium_is_known_for_one() -> None:
    xml = samples.domain(
        """<disk type='file' device='cdrom'><driver type='raw'/><source file='/a.iso'/><target dev='sda'/></disk>"""
    )
    assert named_sources(xml) == (NamedSource("/a.iso", "raw", is_medium=True),)


def test_a_device_of_the_network_is_no_volume() -> None:
    xml = samples.domain("<interface type='direct'><source dev='eth0' mode='bridge'/></interface>")
    assert named_sources(xml) == ()


def test_a_mirror_and_a_file_of_data_are_found() -> None:
    xml = samples.domain(
        """<disk type='file' device='disk'><driver type='qcow2'/>
        <source file='/a'><dataStore type='file'><format type='raw'/><source file='/data'/></dataStore></source>
        <mirror type='block' job='copy'><format type='qcow2'/><source dev='/dev/b'/></mirror></disk>"""
    )
    assert named_sources(xml) == (
        NamedSource("/a", "qcow2"),
        NamedSource("/data", "raw"),
        NamedSource("/dev/b", "qcow2"),
    )
