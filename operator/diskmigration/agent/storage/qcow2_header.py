"""What a qcow2 volume says of itself, and of the one below it. Pure: nothing that it names is opened.

Only for volumes that libvirt says are qcow2: a guest writes the first bytes of a raw disk. Source: QEMU's
docs/interop/qcow2.txt.
"""

import struct
from dataclasses import dataclass

HEADER_BYTES = 65536
"""How much of a volume holds all of it: the header lies within the first cluster, and so do the names in it."""

_MAGIC = b"QFI\xfb"
_FIXED = struct.Struct(">4sIQIIQI")
_INCOMPATIBLE_FEATURES_AT = 72
_HEADER_LENGTH_AT = 100
_VERSION_2_LENGTH = 72
_BACKING_FORMAT = 0xE2792ACA
_END = 0
_LONGEST_NAME = 1023
_IS_CORRUPT = 1 << 1
_HAS_DATA_FILE = 1 << 2


@dataclass(frozen=True)
class Header:
    """The virtual size, and the volume below as it is written there; "" where there is none, or no format is said."""

    capacity_bytes: int
    backing_name: str = ""
    backing_format: str = ""
    is_encrypted: bool = False
    is_corrupt: bool = False
    has_data_file: bool = False


def parse(data: bytes) -> Header:
    """Reads the beginning of a qcow2 volume.

    Raises:
        ValueError: it is none, or is damaged.
    """
    if len(data) < _VERSION_2_LENGTH or data[:4] != _MAGIC:
        raise ValueError("it has no qcow2 header")
    _, version, name_at, name_length, _, capacity, encryption = _FIXED.unpack_from(data)
    if version not in (2, 3):
        raise ValueError(f"its qcow2 version {version} is not known")
    features, length = 0, _VERSION_2_LENGTH
    if version == 3:
        if len(data) < _HEADER_LENGTH_AT + 4:
            raise ValueError("its qcow2 header is cut off")
        (features,) = struct.unpack_from(">Q", data, _INCOMPATIBLE_FEATURES_AT)
        (length,) = struct.unpack_from(">I", data, _HEADER_LENGTH_AT)
    return Header(
        capacity_bytes=capacity,
        backing_name=_name(data, name_at, name_length),
        backing_format=_extension(data, length, _BACKING_FORMAT).decode(errors="replace"),
        is_encrypted=encryption != 0,
        is_corrupt=bool(features & _IS_CORRUPT),
        has_data_file=bool(features & _HAS_DATA_FILE),
    )


def _name(data: bytes, at: int, length: int) -> str:
    if at == 0:
        return ""
    if length > _LONGEST_NAME or at + length > len(data):
        raise ValueError("the name of its backing volume lies outside its header")
    # As Python names files, so that any name can be opened.
    return data[at : at + length].decode("utf-8", "surrogateescape")


def _extension(data: bytes, at: int, wanted: int) -> bytes:
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">II", data, at)
        if kind == _END:
            break
        if kind == wanted:
            return data[at + 8 : at + 8 + length]
        at += 8 + -(-length // 8) * 8
    return b""
