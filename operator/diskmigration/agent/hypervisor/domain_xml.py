"""A domain's XML read into values, and the small documents that libvirt is given. Pure: no call is made here.

Formats: https://libvirt.org/formatdomain.html, https://libvirt.org/formatsnapshot.html.
"""

import functools
import re
import shlex
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from diskmigration.api.vm_owner import OWNER_URI

RUN_URI = "https://diskmigration.dev/run/v1"
"""The XML namespace of the mark of a run."""


@dataclass(frozen=True)
class Layer:
    """One volume of a backing chain as libvirt knows it; `index` is its blockdev index, None when not running."""

    type: str
    path: str
    format: str
    index: int | None
    has_special_access: bool = False
    """Encrypted, a slice, or with its data in another file: what is read from the path is not what the guest sees."""


@dataclass(frozen=True)
class Mirror:
    """The target of the disk's block job; `job` is `copy` or `active-commit`, `ready` is libvirt's word or empty."""

    layer: Layer
    job: str
    ready: str


@dataclass(frozen=True)
class DomainDisk:
    """One disk of a domain; `chain` is active layer first, and complete only if `chain_is_known`."""

    target: str
    device: str
    type: str
    chain: tuple[Layer, ...]
    chain_is_known: bool
    mirror: Mirror | None = None
    readonly: bool = False
    shareable: bool = False
    transient: bool = False
    cache: str = ""
    io: str = ""
    detect_zeroes: str = ""
    alias: str = ""
    copy_on_read: bool = False

    @property
    def active(self) -> Layer | None:
        """The layer that the guest writes to."""
        return self.chain[0] if self.chain else None


@dataclass(frozen=True)
class DomainDescription:
    """What this project reads of a domain's XML."""

    name: str
    uuid: str
    disks: tuple[DomainDisk, ...]
    metadata_namespaces: frozenset[str] = frozenset()
    """The XML namespaces of the elements in its metadata: whoever keeps something there has one of his own."""
    owner: str = ""
    """The namespace that it belongs to, as its metadata says; see vm_owner.py."""
    product: str = ""
    """The product that it shows to its guest as the hardware's (SMBIOS)."""
    run: str | None = None
    """The mark of the run of QEMU that this describes (see runs.py), if it runs and was marked."""
    is_running: bool = False
    """Whether QEMU runs the VM, or is about to: what virDomainIsActive answers.

    Source: virDomainObjIsActive and virDomainDefFormatInternal of libvirt's src/conf, which both go by the VM's number.
    """

    @property
    def shell_name(self) -> str:
        """The name as a user can paste it, or the uuid: a shell, or virsh, may take some names for something else."""
        return self.uuid if self.name.startswith("-") else shlex.quote(self.name)

    def disk(self, target: str) -> DomainDisk | None:
        """Return the disk with that target device, or None."""
        return next((disk for disk in self.disks if disk.target == target), None)


@functools.lru_cache(maxsize=512)
def parse(xml: str) -> DomainDescription:
    """Read a domain's XML, live or inactive. Kept, as each VM's is read every few seconds and hardly ever changes.

    Raises:
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    root = root_of(xml)
    return DomainDescription(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        disks=tuple(_disk(element) for element in root.findall("./devices/disk")),
        metadata_namespaces=frozenset(
            element.tag[1:].partition("}")[0] for element in root.findall("./metadata/*") if element.tag[:1] == "{"
        ),
        owner=_owner(root),
        product=root.findtext("./sysinfo/system/entry[@name='product']", ""),
        run=_run(root),
        is_running=root.get("id") is not None,
    )


_TAG = re.compile(r"<[^<>!?][^<>]*>")
_VALUE = re.compile(r"""=(?:"[^"]*"|'[^']*')""")
_BREAK_IN_TAG = re.compile(r"<(?![<>!?])[^<>\t\n\r]*[\t\n\r]")
_BREAKS = {ord(character): f"&#{ord(character)};" for character in "\t\n\r"}


def root_of(xml: str) -> ET.Element:
    """Return the document's root, with every path as it is.

    libvirt writes a path's line breaks and tabs as they are, and an XML parser has to read a space for each: another
    path, and maybe somebody else's volume.
    """
    if _BREAK_IN_TAG.search(xml) is not None:
        xml = _TAG.sub(lambda tag: _VALUE.sub(lambda value: value[0].translate(_BREAKS), tag[0]), xml)
    return ET.fromstring(xml)  # noqa: S314 - libvirt's own output, from the node's own daemon


def _owner(root: ET.Element) -> str:
    element = root.find(f"./metadata/{{{OWNER_URI}}}owner")
    return element.get("namespace", "").strip() if element is not None else ""


def _run(root: ET.Element) -> str | None:
    mark = root.findtext(f"./metadata/{{{RUN_URI}}}run")
    # A live XML that was defined brings along the mark of a run that had another number.
    return mark if mark and mark.partition("-")[0] == root.get("id") else None


def _disk(element: ET.Element) -> DomainDisk:
    target = element.find("target")
    driver = element.find("driver")
    chain, known = _chain(element, element.get("type", ""), driver.get("type", "") if driver is not None else "")
    mirror, alias = element.find("mirror"), element.find("alias")
    return DomainDisk(
        target=target.get("dev", "") if target is not None else "",
        device=element.get("device", "disk"),
        type=element.get("type", ""),
        chain=chain,
        chain_is_known=known,
        mirror=_mirror(mirror) if mirror is not None else None,
        readonly=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        transient=element.find("transient") is not None,
        cache=driver.get("cache", "") if driver is not None else "",
        io=driver.get("io", "") if driver is not None else "",
        detect_zeroes=driver.get("detect_zeroes", "") if driver is not None else "",
        alias=alias.get("name", "") if alias is not None else "",
        copy_on_read=driver is not None and driver.get("copy_on_read") == "on",
    )


def _chain(element: ET.Element, kind: str, image_format: str) -> tuple[tuple[Layer, ...], bool]:
    """Return the layers from this element down; an empty `<backingStore/>` ends a chain that is known whole."""
    source = element.find("source")
    if source is None:
        return (), False
    layers = [_layer(element, source, kind, image_format)]
    below = element.find("backingStore")
    while below is not None:
        source = below.find("source")
        if source is None:
            return tuple(layers), len(below) == 0
        layers.append(_layer(below, source, below.get("type", ""), _format_of(below), index=below.get("index")))
        below = below.find("backingStore")
    # QEMU has no backing file below a raw volume, so libvirt has nothing to walk to.
    return tuple(layers), layers[-1].format == "raw"


def _format_of(element: ET.Element) -> str:
    found = element.find("format")
    return found.get("type", "") if found is not None else ""


def _layer(parent: ET.Element, source: ET.Element, kind: str, image_format: str, *, index: str | None = None) -> Layer:
    """Return the volume of a `<source>`, which carries the index itself, but not below a `<backingStore>`.

    Its encryption may stand beside the `<source>` as well as in it.
    """
    index = index or source.get("index")
    return Layer(
        type=kind,
        path=source.get("file") or source.get("dev") or "",
        format=image_format,
        index=int(index) if index is not None and index.isdecimal() else None,
        has_special_access=parent.find("encryption") is not None
        or any(source.find(special) is not None for special in ("encryption", "slices", "dataStore")),
    )


def _mirror(element: ET.Element) -> Mirror:
    source = element.find("source")
    layer = _layer(element, source if source is not None else element, element.get("type", ""), _format_of(element))
    return Mirror(layer=layer, job=element.get("job", ""), ready=element.get("ready", ""))


def names_pool_volume(xml: str, target: str) -> bool:
    """Return whether a disk of that target device is, anywhere in the document, a volume of a storage pool."""
    return any(
        disk.find("source[@pool]") is not None and disk.find(f"target[@dev='{target}']") is not None
        for disk in root_of(xml).iter("disk")
    )


def checkpoint_has_disk(xml: str, target: str) -> bool:
    """Return whether a checkpoint keeps a bitmap on the disk of that target device."""
    return root_of(xml).find(f"./disks/disk[@name='{target}'][@checkpoint='bitmap']") is not None


def _source(parent: ET.Element, kind: str, path: str) -> None:
    ET.SubElement(parent, "source", {"dev" if kind == "block" else "file": path})


def snapshot_document(*, target: str, other_targets: tuple[str, ...], kind: str, path: str) -> str:
    """Return a disk-only external snapshot of one disk onto an existing qcow2 volume; no other disk takes part."""
    root = ET.Element("domainsnapshot")
    disks = ET.SubElement(root, "disks")
    disk = ET.SubElement(disks, "disk", {"name": target, "snapshot": "external", "type": kind})
    ET.SubElement(disk, "driver", {"type": "qcow2"})
    _source(disk, kind, path)
    for other in other_targets:
        ET.SubElement(disks, "disk", {"name": other, "snapshot": "no"})
    return ET.tostring(root, encoding="unicode")


def copy_document(*, kind: str, path: str, image_format: str) -> str:
    """Return the destination of a block copy; the format is stated, as it would be probed otherwise."""
    disk = ET.Element("disk", {"type": kind})
    ET.SubElement(disk, "driver", {"name": "qemu", "type": image_format})
    _source(disk, kind, path)
    return ET.tostring(disk, encoding="unicode")


def disk_document(xml: str, target: str) -> str | None:
    """Return the `<disk>` of that target as a document of its own, or None if the domain has no such disk."""
    for disk in root_of(xml).findall("./devices/disk"):
        if (found := disk.find("target")) is not None and found.get("dev") == target:
            return ET.tostring(disk, encoding="unicode")
    return None


def parse_disk(document: str) -> DomainDisk:
    """Read a document of `disk_document`."""
    return _disk(root_of(document))


def moved_disk(document: str, *, kind: str, path: str, image_format: str, remembered: str | None = None) -> str:
    """Return the `<disk>` with another volume as its source; everything else of it stays.

    `remembered` is the disk as it was before libvirt replaced its source: what libvirt dropped is put back. Source:
    qemuSnapshotDiskPrepareOne builds a new persistent source, without `<seclabel>` and `<metadata_cache>`.
    """
    disk = root_of(document)
    active = _disk(disk).active
    if active is None or active.path != path:
        for below in disk.findall("backingStore"):
            disk.remove(below)
    disk.set("type", kind)
    source, driver = _child(disk, "source"), _child(disk, "driver", name="qemu")
    if remembered is not None:
        before = root_of(remembered)
        _put_back(source, before.find("source"))
        _put_back(driver, before.find("driver"))
    for name in _NAMES_OF_A_VOLUME:
        source.attrib.pop(name, None)
    source.set("dev" if kind == "block" else "file", path)
    driver.set("type", image_format)
    return ET.tostring(disk, encoding="unicode")


def is_same(one: str, other: str) -> bool:
    """Return whether two documents say the same, however they are laid out."""
    return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)


_NAMES_OF_A_VOLUME = ("file", "dev", "index")


def _child(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    found = parent.find(tag)
    return found if found is not None else ET.SubElement(parent, tag, attributes)


def _put_back(element: ET.Element, before: ET.Element | None) -> None:
    """Add the children that the element had before; what is there now is newer and stays."""
    if before is None:
        return
    present = {(child.tag, child.get("model")) for child in element}
    element.extend(child for child in before if (child.tag, child.get("model")) not in present)
