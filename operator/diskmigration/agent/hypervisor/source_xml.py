"""Every volume that one of libvirt's documents names: a VM's XML, live or not, a snapshot's, a checkpoint's. Pure.

Formats: https://libvirt.org/formatdomain.html, https://libvirt.org/formatsnapshot.html.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

from diskmigration.agent.hypervisor.domain_xml import root_of

_MEDIA = ("cdrom", "floppy")


@dataclass(frozen=True)
class NamedSource:
    """A volume by its path, or by a storage pool and its name there; `format` is "" where none is stated.

    `is_walked` tells that the document names all that lies below it too, `is_medium` that it lies in a CD-ROM or floppy
    drive.
    """

    path: str
    format: str = ""
    pool: str = ""
    volume: str = ""
    is_walked: bool = False
    is_medium: bool = False


def named_sources(xml: str) -> tuple[NamedSource, ...]:
    """Return every volume that any element of the document names, each once.

    Raises:
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    return tuple(dict.fromkeys(_sources(root_of(xml))))


def _sources(root: ET.Element) -> Iterator[NamedSource]:
    for element in root.iter():
        for source in element.findall("source"):
            path, pool = source.get("file") or source.get("dev") or "", source.get("pool", "")
            # An interface names a device of the network in the same way.
            if path.startswith("/") or pool:
                yield NamedSource(
                    path=path,
                    format=_format_of(element),
                    pool=pool,
                    volume=source.get("volume", ""),
                    is_walked=element.find("backingStore") is not None,
                    is_medium=element.tag == "disk" and element.get("device") in _MEDIA,
                )
        # The memory of an external snapshot.
        if element.tag == "memory" and element.get("file", "").startswith("/"):
            yield NamedSource(path=element.get("file", ""), format="raw")


def _format_of(element: ET.Element) -> str:
    for name in ("driver", "format"):
        found = element.find(name)
        if found is not None and (image_format := found.get("type", "")):
            return image_format
    return ""
