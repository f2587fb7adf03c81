"""What a qcow2 header says: as qemu-img wrote it, and whatever somebody else did."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage.qcow2_header import (
    HEADER_BYTES,
    Bitmap,
    Header,
    parse,
    parse_bitmaps,
    read,
    read_bitmaps,
)

GIB = 2**30


def made(path: Path, *options: str) -> bytes:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, str(GIB)], check=True)
    with path.open("rb") as opened:
        return opened.read(HEADER_BYTES)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_a_volume_that_stands_alone(tmp_path: Path, compat: str) -> None:
    assert parse(made(tmp_path / "a", "-o", f"compat={compat}")) == Header(capacity_bytes=GIB)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("below_format", ["raw", "qcow2"])
@pytest.mark.parametrize("name", ["/srv/base", "base", "/srv/é b", "/" + "x" * 900])
def test_the_volume_below(tmp_path: Path, compat: str, below_format: str, name: str) -> None:
    data = made(tmp_path / "a", "-u", "-b", name, "-F", below_format, "-o", f"compat={compat}")
    assert parse(data) == Header(capacity_bytes=GIB, backing_name=name, backing_format=below_format)


def test_data_in_another_file_is_told(tmp_path: Path) -> None:
    data = made(tmp_path / "a", "-o", f"data_file={tmp_path / 'data'}")
    assert parse(data).has_data_file


def test_a_corrupt_volume_is_told(tmp_path: Path) -> None:
    data = bytearray(made(tmp_path / "a"))
    data[79] |= 2
    assert parse(bytes(data)).is_corrupt


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 512, b"QFI\xfb", b"QFI\xfb" + struct.pack(">I", 4) + b"\0" * 512, b"QFI\xfb\0\0\0\3" + b"\0" * 70],
)
def test_what_is_no_qcow2_volume_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="qcow2"):
        parse(data)


def test_a_name_outside_the_header_is_refused(tmp_path: Path) -> None:
    data = bytearray(made(tmp_path / "a", "-u", "-b", "/srv/base", "-F", "raw"))
    struct.pack_into(">Q", data, 8, HEADER_BYTES)
    with pytest.raises(ValueError, match="outside"):
        parse(bytes(data))


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_they_are_read_or_refused(rest: bytes) -> None:
    try:
        found = parse(b"QFI\xfb\0\0\0\3" + rest)
    except ValueError:
        return
    assert len(found.backing_name) <= 1023


def snapshots_of(path: Path, *names: str) -> bytes:
    for name in names:
        subprocess.run(["qemu-img", "snapshot", "-c", name, path], check=True)
    with path.open("rb") as opened:
        return opened.read(HEADER_BYTES)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_internal_snapshots_are_counted(tmp_path: Path, compat: str) -> None:
    made(tmp_path / "a", "-o", f"compat={compat}")
    assert parse(snapshots_of(tmp_path / "a", "s1", "s2")).snapshot_count == 2


@pytest.mark.parametrize("names", [(), ("b0",), ("b0", "a name of another length", "b" * 1023)])
def test_bitmaps_are_told(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "a"
    made(path)
    for position, name in enumerate(names):
        state = "--enable" if position % 2 == 0 else "--disable"
        subprocess.run(["qemu-img", "bitmap", "--add", state, path, name], check=True)
    found = read_bitmaps(path, read(path))
    assert set(found) == {Bitmap(name, position % 2 == 0) for position, name in enumerate(names)}


def test_bitmaps_that_an_old_program_has_made_void_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    made(path)
    subprocess.run(["qemu-img", "bitmap", "--add", path, "b0"], check=True)
    data = bytearray(path.read_bytes()[:HEADER_BYTES])
    # It clears what it does not know of the autoclear features.
    struct.pack_into(">Q", data, 88, 0)
    assert parse(bytes(data)).bitmap_directory is None


@given(st.binary(max_size=200))
def test_a_damaged_directory_of_bitmaps_is_refused_or_read(data: bytes) -> None:
    try:
        parse_bitmaps(data)
    except ValueError as error:
        assert "bitmaps" in str(error)  # noqa: PT017 - the other outcome is as good
