"""What is read of libvirt's XML, and what is written for it, whatever the paths and names are."""

import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diskmigration.agent.hypervisor import domain_xml
from diskmigration.agent.hypervisor.domain_xml import DomainDisk, Layer, Mirror
from diskmigration.agent.hypervisor.source_xml import named_sources
from tests.unit.agent.hypervisor import samples

# What a file name may hold and an XML document can: anything but NUL, other controls, surrogates and non-characters.
paths = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn"))
    | st.sampled_from("\"'<>&;\\ \u00e9\u4e2d\U0001f600"),
    min_size=1,
    max_size=60,
).map("/srv/{}".format)
targets = st.from_regex(r"[a-z][a-z0-9]{1,8}", fullmatch=True)


def _with_children(tag: str, attributes: dict[str, str], children: list[ET.Element]) -> ET.Element:
    element = ET.Element(tag, attributes)
    element.extend(children)
    return element


def only_disk(sample: str) -> DomainDisk:
    (disk,) = domain_xml.parse(samples.domain(sample)).disks
    return disk


@pytest.mark.parametrize(
    ("root", "element", "expected"),
    [
        ("<domain id='7'>", "<r:run xmlns:r='https://diskmigration.dev/run/v1'>7-abc</r:run>", "7-abc"),
        # A live XML that was defined, and started with.
        ("<domain id='8'>", "<r:run xmlns:r='https://diskmigration.dev/run/v1'>7-abc</r:run>", None),
        ("<domain id='77'>", "<r:run xmlns:r='https://diskmigration.dev/run/v1'>7-abc</r:run>", None),
        ("<domain>", "<r:run xmlns:r='https://diskmigration.dev/run/v1'>7-abc</r:run>", None),
        ("<domain id='7'>", "<run>7-abc</run>", None),
        ("<domain id='7'>", "", None),
    ],
)
def test_a_run_is_known_by_its_mark_and_its_number(root: str, element: str, expected: str | None) -> None:
    document = f"{root}<name>web</name><metadata>{element}</metadata></domain>"
    assert domain_xml.parse(document).run == expected


@pytest.mark.parametrize(("root", "is_running"), [("<domain type='kvm' id='7'>", True), ("<domain type='kvm'>", False)])
def test_a_vm_that_runs_has_a_number(root: str, is_running: bool) -> None:
    assert domain_xml.parse(f"{root}<name>web</name></domain>").is_running is is_running


def test_a_chain_of_three_is_read_active_layer_first_with_each_index() -> None:
    disk = only_disk(samples.CHAIN_OF_THREE)
    assert disk.chain == (
        Layer("file", "/srv/vmdisks/top.qcow2", "qcow2", 4),
        Layer("file", "/srv/vmdisks/middle.qcow2", "qcow2", 3),
        Layer("block", "/dev/vg0/base", "raw", 1),
    )
    assert disk.chain_is_known
    assert disk.active == disk.chain[0]
    assert (disk.target, disk.device, disk.type, disk.cache, disk.io) == ("vda", "disk", "file", "none", "native")
    assert disk.mirror is None
    assert (disk.readonly, disk.shareable, disk.transient) == (False, False, False)


def test_the_target_of_a_copy_is_read_with_its_own_index() -> None:
    disk = only_disk(samples.COPY)
    layer = Layer("block", "/srv/loopdisks/dev/dm-1-overlay", "qcow2", 6)
    assert disk.mirror == Mirror(layer, "copy", "yes")
    # The mirror's chain is not the disk's.
    assert disk.chain == (Layer("file", "/srv/vmdisks/top.qcow2", "qcow2", 1),)


def test_the_target_of_an_active_commit_is_read_and_not_taken_for_ready() -> None:
    disk = only_disk(samples.ACTIVE_COMMIT)
    assert disk.mirror == Mirror(Layer("block", "/dev/vg0/base", "qcow2", 1), "active-commit", "")
    assert [layer.path for layer in disk.chain] == ["/dev/vg0/overlay", "/dev/vg0/base"]


@pytest.mark.parametrize("sample", [samples.NETWORK, samples.NVME])
def test_a_disk_that_is_neither_file_nor_device_has_no_path(sample: str) -> None:
    disk = only_disk(sample)
    assert disk.active is not None
    assert disk.active.path == ""
    assert disk.type == disk.active.type
    assert disk.type in ("network", "nvme")


ENCRYPTION = "<encryption format='luks'><secret type='passphrase' uuid='u'/></encryption>"


@pytest.mark.parametrize(
    ("place", "is_top"),
    [
        ("<driver name='qemu' type='raw'/>", True),
        ("<source file='/srv/top'/>", True),
        ("<source file='/srv/top'>", True),
        ("<source file='/srv/base'>", False),
        ("<backingStore type='file'>", False),
    ],
)
def test_encryption_is_seen_wherever_libvirt_lets_it_be_said(place: str, is_top: bool) -> None:
    sample = f"""<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/top'{"></source>" if place == "<source file='/srv/top'>" else "/>"}
      <backingStore type='file'><format type='qcow2'/><source file='/srv/base'></source><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>""".replace(place, place + ENCRYPTION)
    assert ENCRYPTION in sample
    top, base = only_disk(sample).chain
    assert (top.has_special_access, base.has_special_access) == (is_top, not is_top)


def test_encryption_of_a_mirror_is_seen() -> None:
    sample = samples.COPY.replace("<format type='qcow2'/>\n    <source dev", ENCRYPTION + "<source dev", 1)
    disk = only_disk(sample)
    assert disk.mirror is not None
    assert disk.mirror.layer.has_special_access
    assert not disk.chain[0].has_special_access


@pytest.mark.parametrize(("value", "is_on"), [("on", True), ("off", False)])
def test_copy_on_read_is_seen(value: str, is_on: bool) -> None:
    disk = only_disk(samples.CHAIN_OF_THREE.replace("cache='none'", f"cache='none' copy_on_read='{value}'"))
    assert disk.copy_on_read == is_on


def test_an_empty_cdrom_has_no_layer() -> None:
    disk = only_disk(samples.EMPTY_CDROM)
    assert (disk.device, disk.target, disk.chain, disk.active) == ("cdrom", "sda", (), None)
    assert disk.readonly
    assert not disk.chain_is_known


def test_what_makes_a_disk_unfit_is_seen() -> None:
    assert only_disk(samples.SHAREABLE).shareable
    assert only_disk(samples.TRANSIENT).transient
    encrypted, sliced = only_disk(samples.ENCRYPTED), only_disk(samples.SLICE_BELOW)
    assert [layer.has_special_access for layer in encrypted.chain] == [True]
    assert [layer.has_special_access for layer in sliced.chain] == [False, True]
    assert not any(layer.has_special_access for layer in only_disk(samples.CHAIN_OF_THREE).chain)


@pytest.mark.parametrize(
    ("sample", "is_known"),
    [
        (samples.CHAIN_OF_THREE, True),
        (samples.SHAREABLE, True),
        (samples.RAW_WITHOUT_CHAIN, True),
        (samples.UNKNOWN_CHAIN, False),
        (samples.UNKNOWN_BELOW, False),
        (samples.EMPTY_CDROM, False),
    ],
)
def test_a_chain_is_known_only_where_its_end_was_seen(sample: str, is_known: bool) -> None:
    assert only_disk(sample).chain_is_known is is_known


def test_a_vm_that_is_off_has_no_indexes() -> None:
    assert [layer.index for layer in only_disk(samples.UNKNOWN_BELOW).chain] == [None, None]


def test_a_whole_domain_is_read() -> None:
    disks = (samples.CHAIN_OF_THREE, samples.COPY, samples.EMPTY_CDROM)
    description = domain_xml.parse(samples.domain(*disks))
    assert (description.name, description.uuid) == ("web-1", "0f6c0f1a-6f5e-4a41-8c1c-2b0c9b1f7c11")
    assert [disk.target for disk in description.disks] == ["vda", "vdb", "sda"]
    assert description.disk("vdb") == description.disks[1]
    assert description.disk("vd") is None


ODD = "/srv/a\"b'c<d>&amp;e\\f g,h:i%\u00e9\U0001f600]]>"


@given(paths, st.sampled_from(("file", "block")), st.sampled_from(("qcow2", "raw")))
@example(ODD, "file", "qcow2")
def test_a_copy_document_says_any_path(path: str, kind: str, image_format: str) -> None:
    disk = ET.fromstring(domain_xml.copy_document(kind=kind, path=path, image_format=image_format))
    source, driver = disk.find("source"), disk.find("driver")
    assert source is not None
    assert driver is not None
    assert (disk.tag, disk.attrib) == ("disk", {"type": kind})
    assert source.attrib == {"dev" if kind == "block" else "file": path}
    assert driver.get("type") == image_format


@given(paths, targets, st.lists(targets, max_size=5), st.sampled_from(("file", "block")))
@example(ODD, "vda", ["vdb"], "file")
def test_a_snapshot_document_takes_one_disk_and_no_other(path: str, target: str, others: list[str], kind: str) -> None:
    document = domain_xml.snapshot_document(target=target, other_targets=tuple(others), kind=kind, path=path)
    disks = ET.fromstring(document).findall("./disks/disk")
    assert [disk.get("name") for disk in disks] == [target, *others]
    assert [disk.get("snapshot") for disk in disks] == ["external", *["no"] * len(others)]
    source = disks[0].find("source")
    assert source is not None
    assert source.attrib == {"dev" if kind == "block" else "file": path}
    assert all(disk.find("source") is None for disk in disks[1:])


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")) | st.sampled_from("\t\n\r\"'&<>=/ ")
    ).map("/srv/{}".format)
)
@example("/srv/a\nb='c' \t\r<d/>")
def test_a_path_is_read_as_it_is_also_where_libvirt_writes_its_line_breaks_unescaped(path: str) -> None:
    # As virBufferEscapeString writes it.
    escaped = escape(path, {'"': "&quot;", "'": "&apos;"})
    xml = samples.domain(f"""<disk type='file' device='disk'><driver type='raw'/>
        <source file='{escaped}' index='1'/><target dev='vda'/></disk>""")
    assert only_layer(xml) == Layer("file", path, "raw", 1)
    document = domain_xml.disk_document(xml, only_disk_of(xml).target)
    assert document is not None
    assert domain_xml.parse_disk(document) == only_disk_of(xml)
    kept = domain_xml.moved_disk(document, kind="file", path=path, image_format="qcow2")
    assert [source.path for source in named_sources(kept)] == [path]


def only_disk_of(xml: str) -> DomainDisk:
    (disk,) = domain_xml.parse(xml).disks
    return disk


def only_layer(xml: str) -> Layer:
    ((layer,),) = (disk.chain for disk in domain_xml.parse(xml).disks)
    return layer


TAGS = ("source", "backingStore", "target", "driver", "mirror", "format", "slices", "encryption", "dataStore", "alias")
ATTRIBUTES = ("type", "file", "dev", "index", "device", "name", "job", "ready", "cache", "io", "bus", "odd")
xml_text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=8)
elements: st.SearchStrategy[ET.Element] = st.recursive(
    st.builds(
        ET.Element, st.sampled_from(TAGS), st.dictionaries(st.sampled_from(ATTRIBUTES), xml_text | targets, max_size=4)
    ),
    lambda inner: st.builds(
        _with_children,
        st.sampled_from(TAGS),
        st.dictionaries(st.sampled_from(ATTRIBUTES), xml_text | st.just("7"), max_size=4),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


@given(st.lists(elements, max_size=4))
def test_no_disk_breaks_the_reading_of_its_domain_or_of_another_disk(children: list[ET.Element]) -> None:
    odd = _with_children("disk", {}, children)
    xml = samples.domain(ET.tostring(odd, encoding="unicode"), samples.COPY)
    description = domain_xml.parse(xml)
    assert len(description.disks) == 2
    assert description.disks[1] == only_disk(samples.COPY)
    document = domain_xml.disk_document(xml, description.disks[0].target) or ET.tostring(odd, encoding="unicode")
    moved = domain_xml.moved_disk(document, kind="block", path="/dev/x", image_format="raw")
    assert "/dev/x" in {source.path for source in named_sources(moved)}
    domain_xml.moved_disk(document, kind="file", path="/x", image_format="raw", remembered=moved)
    named_sources(xml)


ODD_DISKS = {
    "a file below without its source": (
        "<source file='/a'/><backingStore type='file'><format type='raw'/></backingStore>",
        False,
    ),
    "a network image below": (
        "<source file='/a'/><backingStore type='network'><format type='raw'/><source protocol='nbd'><host name='h'/>"
        "</source><backingStore/></backingStore>",
        True,
    ),
    "a number that is none": ("<source file='/a' index='first'/><backingStore/>", True),
}


@pytest.mark.parametrize("kind", ODD_DISKS)
def test_odd_chains(kind: str) -> None:
    inner, is_known = ODD_DISKS[kind]
    disk = only_disk(f"<disk type='file' device='disk'><driver type='qcow2'/>{inner}<target dev='vda'/></disk>")
    assert disk.chain[0] == Layer("file", "/a", "qcow2", None)
    assert disk.chain_is_known is is_known


def test_an_image_with_its_data_in_another_file_is_seen() -> None:
    disk = only_disk("""<disk type='file' device='disk'><driver type='qcow2'/><source file='/a'>
        <dataStore type='file'><format type='raw'/><source file='/data'/></dataStore></source>
        <backingStore/><target dev='vda'/></disk>""")
    assert [layer.has_special_access for layer in disk.chain] == [True]


EVERY_KIND = (samples.CHAIN_OF_THREE, samples.COPY, samples.EMPTY_CDROM, samples.UNKNOWN_CHAIN)


def document_of(sample: str, target: str) -> str:
    document = domain_xml.disk_document(samples.domain(sample), target)
    assert document is not None
    return document


def test_one_disk_of_many_is_found_by_its_target() -> None:
    xml = samples.domain(*EVERY_KIND)
    for disk in domain_xml.parse(xml).disks:
        document = domain_xml.disk_document(xml, disk.target)
        assert document is not None
        assert domain_xml.parse_disk(document) == disk
    assert domain_xml.disk_document(xml, "vdz") is None


@given(paths, st.sampled_from(("file", "block")), st.sampled_from(("qcow2", "raw")))
@example(ODD, "block", "qcow2")
def test_a_moved_disk_names_its_new_volume_alone(path: str, kind: str, image_format: str) -> None:
    moved = domain_xml.moved_disk(
        document_of(samples.CHAIN_OF_THREE, "vda"), kind=kind, path=path, image_format=image_format
    )
    disk = domain_xml.parse_disk(moved)
    assert disk.chain == (Layer(kind, path, image_format, None),)
    assert disk.type == kind
    # What is the driver's own choice stays; whether it suits the new home is not decided here.
    assert (disk.cache, disk.io) == ("none", "native")
    assert domain_xml.is_same(moved, domain_xml.moved_disk(moved, kind=kind, path=path, image_format=image_format))


RICH = """<disk type='file' device='disk' snapshot='external'>
    <driver name='qemu' type='raw' cache='none' error_policy='enospace' io='native' discard='unmap'
            detect_zeroes='unmap' iothread='1' queues='4'><metadata_cache><max_size unit='bytes'>1</max_size>
    </metadata_cache></driver>
    <source file='/a' startupPolicy='optional' index='3'>
        <seclabel model='dac' relabel='no'/><seclabel model='selinux' relabel='no'/><reservations managed='yes'/>
    </source>
    <target dev='vda' bus='virtio'/><iotune><total_iops_sec>100</total_iops_sec></iotune><serial>abc</serial>
    <boot order='1'/><alias name='ua-root'/><address type='pci' bus='0x00' slot='0x05' function='0x0'/></disk>"""


@pytest.mark.parametrize("kind", ["file", "block"])
def test_all_else_of_a_moved_disk_stays(kind: str) -> None:
    moved = ET.fromstring(domain_xml.moved_disk(document_of(RICH, "vda"), kind=kind, path="/b", image_format="qcow2"))
    expected = ET.fromstring(RICH)
    expected.set("type", kind)
    driver, source = expected.find("driver"), expected.find("source")
    assert driver is not None
    assert source is not None
    driver.set("type", "qcow2")
    del source.attrib["file"], source.attrib["index"]
    source.set("dev" if kind == "block" else "file", "/b")
    assert domain_xml.is_same(ET.tostring(moved, encoding="unicode"), ET.tostring(expected, encoding="unicode"))


def test_what_libvirt_dropped_from_a_source_is_put_back() -> None:
    """As libvirt 9.0 leaves the definition behind a snapshot."""
    now = document_of(
        """<disk type='file' device='disk' snapshot='external'>
        <driver name='qemu' type='qcow2' cache='writeback'/>
        <source file='/snapshot' startupPolicy='optional'><seclabel model='selinux' relabel='yes'/></source>
        <backingStore type='file'><format type='raw'/><source file='/a'/></backingStore>
        <target dev='vda' bus='virtio'/></disk>""",
        "vda",
    )
    moved = ET.fromstring(
        domain_xml.moved_disk(now, kind="block", path="/b", image_format="qcow2", remembered=document_of(RICH, "vda"))
    )
    source, driver = moved.find("source"), moved.find("driver")
    assert source is not None
    assert driver is not None
    assert source.attrib == {"dev": "/b", "startupPolicy": "optional"}
    labels = {label.get("model"): label.get("relabel") for label in source.findall("seclabel")}
    # What is there now was said later.
    assert labels == {"dac": "no", "selinux": "yes"}
    assert source.find("reservations") is not None
    assert driver.find("metadata_cache") is not None
    # libvirt keeps these; one that is missing was taken away by somebody.
    assert driver.attrib == {"name": "qemu", "type": "qcow2", "cache": "writeback"}
    assert moved.find("backingStore") is None


def test_a_chain_below_a_volume_that_stays_is_kept() -> None:
    document = document_of(samples.CHAIN_OF_THREE, "vda")
    active = domain_xml.parse_disk(document).chain[0]
    kept = domain_xml.moved_disk(document, kind="file", path=active.path, image_format="qcow2")
    assert [layer.path for layer in domain_xml.parse_disk(kept).chain] == [
        layer.path for layer in only_disk(samples.CHAIN_OF_THREE).chain
    ]


def test_a_disk_without_a_driver_gets_one() -> None:
    plain = "<disk type='file' device='disk'><source file='/a'/><target dev='vda'/></disk>"
    moved = domain_xml.moved_disk(document_of(plain, "vda"), kind="file", path="/b", image_format="qcow2")
    driver = ET.fromstring(moved).find("driver")
    assert driver is not None
    assert driver.attrib == {"name": "qemu", "type": "qcow2"}


@pytest.mark.parametrize(
    ("name", "shown"), [("web-1", "web-1"), ("web 1", "'web 1'"), ("-web", "u"), ("$(id)", "'$(id)'")]
)
def test_a_name_is_shown_as_a_shell_takes_it(name: str, shown: str) -> None:
    assert domain_xml.parse(f"<domain><name>{name}</name><uuid>u</uuid></domain>").shell_name == shown


@pytest.mark.parametrize(("checkpoint", "has_disk"), [("bitmap", True), ("no", False)])
def test_the_disks_of_a_checkpoint_are_told(checkpoint: str, has_disk: bool) -> None:
    document = f"<domaincheckpoint><disks><disk name='vda' checkpoint='{checkpoint}'/></disks></domaincheckpoint>"
    assert domain_xml.checkpoint_has_disk(document, "vda") == has_disk
    assert not domain_xml.checkpoint_has_disk(document, "vdb")


@pytest.mark.parametrize(("source", "is_of_pool"), [("pool='p' volume='v'", True), ("file='/srv/v'", False)])
def test_a_disk_of_a_pool_in_a_snapshot_is_told(source: str, is_of_pool: bool) -> None:
    document = f"""<domainsnapshot><domain><devices><disk type='volume'><source {source}/><target dev='vda'/></disk>
    </devices></domain></domainsnapshot>"""
    assert domain_xml.names_pool_volume(document, "vda") == is_of_pool
    assert not domain_xml.names_pool_volume(document, "vdb")
