"""The real qemu-img on real files and loop devices: sizes, chains, and data that arrives as it was."""

import hashlib
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from diskmigration.agent.extender.watermark import largest_useful_size
from diskmigration.agent.storage import qcow2_header, qemu_image, qemu_img
from diskmigration.agent.storage.backing_names import NamedImage, images_named_by
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.long_command import StoppedError
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.qcow2_header import Bitmap
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError
from diskmigration.api.storage_domain import StorageType
from tests.integration.storage.conftest import OWNER
from tests.variants import first_by_day
from tests.waiting import wait_until

KIB = 2**10
MIB = 2**20
GIB = 2**30
TIB = 2**40
CAPACITY = 32 * MIB
QCOW2, RAW = VolumeFormat.QCOW2, VolumeFormat.RAW
Driver = FileDriver | LoopDriver
_L1_TABLE_OFFSET_AT = 40  # QEMU's docs/interop/qcow2.txt


@pytest.mark.parametrize(
    "capacity",
    [
        512,
        64 * KIB,
        64 * KIB + 512,
        MIB,
        512 * MIB - 512,
        512 * MIB,
        512 * MIB + 512,
        GIB,
        10 * GIB,
        100 * GIB + 12 * KIB,
        TIB,
        2 * TIB,
        16 * TIB,
        64 * TIB,
    ],
)
@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=16k,extended_l2=on"])
def test_the_largest_useful_size_holds_a_disk_written_from_end_to_end(capacity: int, options: str) -> None:
    printed = subprocess.run(
        ["qemu-img", "measure", "--output=json", "-O", "qcow2", "-o", options, "--size", str(capacity)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    fully_allocated = json.loads(printed)["fully-allocated"]
    assert fully_allocated <= largest_useful_size(capacity) <= fully_allocated + fully_allocated // 800 + 2 * MIB


def make(driver: Driver, name: str, *, image_format: VolumeFormat = QCOW2, backing: Image | None = None) -> Image:
    """A formatted volume, on a block domain with room for all of it."""
    size = CAPACITY if image_format is RAW else largest_useful_size(CAPACITY)
    image = Image(driver.create(name, size, OWNER), image_format, driver.type)
    qemu_img.create(image, CAPACITY, backing=backing)
    return image


def write(image: Image, offset: int, length: int, pattern: int) -> None:
    command = f"write -P {pattern} {offset} {length}"
    subprocess.run(
        ["qemu-io", "-f", image.format, "-c", command, str(image.path)], capture_output=True, check=True, timeout=60
    )


def content(image: Image, scratch: Path) -> str:
    """The hash of what a guest would read, chain included."""
    flat = scratch / "flat"
    subprocess.run(
        ["qemu-img", "convert", "-U", "-f", image.format, "-O", "raw", str(image.path), str(flat)],
        check=True,
        timeout=60,
    )
    digest = hashlib.sha256(flat.read_bytes()).hexdigest()
    flat.unlink()
    return digest


def copy(*chain: Image, to: Image, below: Image | None = None, **options: Any) -> list[float]:
    shares: list[float] = []
    done = qemu_img.copy(
        chain,
        [to] if below is None else [below, to],
        target_is_zero=to.format is QCOW2,
        bandwidth_bytes_per_second=None,
        on_progress=shares.append,
        keep_on=lambda: True,
        **options,
    )
    assert done
    return shares


@pytest.fixture
def other(driver: Driver, scratch: Path) -> Driver:
    """A domain of the other kind."""
    root = scratch / "other"
    root.mkdir()
    return LoopDriver("other", root) if isinstance(driver, FileDriver) else FileDriver("other", root)


@pytest.mark.parametrize("preallocate", [False, True])
def test_what_a_device_held_before_is_never_read(
    loop_driver: LoopDriver, file_driver: FileDriver, scratch: Path, preallocate: bool
) -> None:
    source = make(file_driver, "source")
    write(source, 5 * MIB, MIB, 7)
    image = Image(loop_driver.create("v", largest_useful_size(CAPACITY), OWNER), QCOW2, loop_driver.type)
    image.path.write_bytes(b"\xee" * loop_driver.size_bytes("v"))
    qemu_img.create(image, CAPACITY, backing=None, preallocate=preallocate)
    copy(source, to=image)
    assert content(image, scratch) == content(source, scratch)


def virtual_size(image: Image) -> int:
    command = ["qemu-img", "info", "--output=json", "-f", image.format, str(image.path)]
    return int(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["virtual-size"])


@pytest.mark.parametrize("image_format", [QCOW2, RAW])
def test_a_volume_made_has_the_disks_virtual_size(driver: Driver, image_format: VolumeFormat) -> None:
    image = make(driver, "v", image_format=image_format)
    assert virtual_size(image) == CAPACITY


def test_a_chain_is_made_without_a_look_at_what_lies_below(driver: Driver) -> None:
    base = make(driver, "base")
    top = make(driver, "top", backing=base)
    assert images_named_by(top.path, "qcow2") == (NamedImage(base.path, "qcow2"),)
    assert images_named_by(top.path, "") == (NamedImage(base.path, "qcow2"),)
    assert images_named_by(top.path, "raw") == ()
    # The volume below may not be there yet at all.
    missing = Image(driver.path("missing"), QCOW2, driver.type)
    make(driver, "early", backing=missing)


def test_a_header_that_names_what_is_no_file_opens_nothing(file_driver: FileDriver, scratch: Path) -> None:
    fifo = scratch / "fifo"
    os.mkfifo(fifo)
    for backing, expected in {
        f"json:{json.dumps({'driver': 'raw', 'file.driver': 'file', 'file.filename': str(fifo)})}": ((fifo, ""),),
        f"json:{json.dumps({'driver': 'raw', 'file': {'driver': 'file', 'filename': str(fifo)}})}": ((fifo, ""),),
        "nbd://192.0.2.1/export": (),
        "ssh://192.0.2.1/image": (),
        f"file:{fifo}": ((fifo, "raw"),),
        str(fifo): ((fifo, "raw"),),
    }.items():
        found = images_named_by(planted(file_driver, backing, "raw"), "qcow2")
        assert found == tuple(NamedImage(*each) for each in expected)
    # An open would wait for the FIFO's other end.
    with pytest.raises(MigrationError, match="no file and no block device"):
        images_named_by(fifo, "qcow2")


@pytest.mark.parametrize("name", ["json:{", "blkdebug:a:/b", "nfs://192.0.2.1/image", "nonsense:/b"])
def test_a_name_that_is_not_understood_is_not_taken_for_none(file_driver: FileDriver, name: str) -> None:
    with pytest.raises(MigrationError, match="not understood"):
        images_named_by(planted(file_driver, name, "raw"), "qcow2")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"QFI\xfb\0\0\0\x03", "no qcow2 header"),
        (b"QFI\xfb\0\0\0\x01" + bytes(100), "version 1 is not known"),
        (b"QED\0", "format qed"),
        (b"KDMV", "format vmdk"),
        (b"# Disk DescriptorFile", "format vmdk"),
    ],
)
def test_an_image_that_cannot_be_read_is_not_taken_for_one_that_names_nothing(
    scratch: Path, start: bytes, words: str
) -> None:
    (scratch / "image").write_bytes(start)
    with pytest.raises(MigrationError, match=words):
        images_named_by(scratch / "image", "")


def test_a_file_without_a_header_names_nothing_unless_it_is_said_to_have_one(scratch: Path) -> None:
    for content in (b"", b"raw data"):
        (scratch / "image").write_bytes(content)
        assert images_named_by(scratch / "image", "") == ()
        with pytest.raises(MigrationError, match="no qcow2 header"):
            images_named_by(scratch / "image", "qcow2")


def test_the_file_of_an_images_data_is_named(scratch: Path) -> None:
    image, data = scratch / "image", scratch / "data"
    options = f"data_file={data},data_file_raw=on"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(image), "1M"], check=True)
    assert images_named_by(image, "qcow2") == (NamedImage(data, "raw"),)


@pytest.mark.parametrize("name", [b"/\xfe\xff", b"/a\nb", b"/\x01"])
def test_a_header_may_hold_any_byte(file_driver: FileDriver, name: bytes) -> None:
    path = planted(file_driver, b"/nowhere" + name, "raw")
    [named] = images_named_by(path, "qcow2")
    assert bytes(named.path) == b"/nowhere" + name
    with pytest.raises(MigrationError, match="nowhere"):
        qemu_img.commit(Image(path, QCOW2, StorageType.FILE), make(file_driver, "base"))


def test_a_chain_is_what_it_is_said_to_be_whatever_a_header_names(
    file_driver: FileDriver, other: Driver, scratch: Path
) -> None:
    secret = scratch / "secret"
    secret.write_bytes(b"secret" * CAPACITY)
    source = Image(planted(file_driver, str(secret), "raw"), QCOW2, StorageType.FILE)
    write(source, 0, MIB, 5)
    destination, plain = make(other, "v"), make(other, "plain")
    write(plain, 0, MIB, 5)
    assert qemu_img.measure([source], target=QCOW2).required_bytes < 2 * MIB
    copy(source, to=destination)
    assert content(destination, scratch) == content(plain, scratch)
    assert qemu_img.is_equal([source], [destination])


def planted(driver: FileDriver, backing: str | bytes, backing_format: str, *, name: str = "v") -> Path:
    """The path of an image whose header names what somebody likes."""
    path = driver.path(name)
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", backing_format]
    subprocess.run([*create, path, str(CAPACITY)], check=True)
    return path


def test_a_measure_tells_one_layer_from_a_whole_chain(driver: Driver) -> None:
    base = make(driver, "base")
    write(base, 0, 8 * MIB, 7)
    top = make(driver, "top", backing=base)
    write(top, 8 * MIB, MIB, 9)
    alone = qemu_img.measure([top], target=QCOW2)
    whole = qemu_img.measure([base, top], target=QCOW2)
    assert MIB <= alone.required_bytes < 2 * MIB
    assert 9 * MIB <= whole.required_bytes < 10 * MIB
    assert (alone.data_bytes(CAPACITY), whole.data_bytes(CAPACITY)) == (MIB, 9 * MIB)
    assert alone.fully_allocated_bytes == whole.fully_allocated_bytes <= largest_useful_size(CAPACITY)


@pytest.mark.parametrize("capacity", [64 * MIB + 512, 5 * 2**40])
def test_a_file_needs_no_room_for_the_tables_of_a_whole_disk(file_driver: FileDriver, capacity: int) -> None:
    image = make(file_driver, "v")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image.path, str(capacity)], check=True)
    write(image, 0, MIB, 7)
    measured = qemu_img.measure([image], target=QCOW2)
    assert measured.needed_bytes(StorageType.FILE, capacity) == MIB
    assert measured.needed_bytes(StorageType.BLOCK, capacity) == measured.required_bytes > MIB


def test_a_bitmap_is_measured_too(file_driver: FileDriver) -> None:
    image = make(file_driver, "v")
    before = qemu_img.measure([image], target=QCOW2)
    subprocess.run(["qemu-img", "bitmap", "--add", "-g", "64k", str(image.path), "backup"], check=True)
    after = qemu_img.measure([image], target=QCOW2)
    assert after.required_bytes > before.required_bytes
    assert after.fully_allocated_bytes > before.fully_allocated_bytes


@pytest.mark.parametrize("source_format", [QCOW2, RAW])
@pytest.mark.parametrize("destination_format", [QCOW2, RAW])
def test_a_copy_to_the_other_kind_of_domain_is_equal(
    driver: Driver, other: Driver, scratch: Path, source_format: VolumeFormat, destination_format: VolumeFormat
) -> None:
    source = make(driver, "v", image_format=source_format)
    write(source, MIB, 3 * MIB, 11)
    write(source, CAPACITY - 64 * KIB, 64 * KIB, 12)
    destination = make(other, "v", image_format=destination_format)
    shares = copy(source, to=destination)
    assert content(destination, scratch) == content(source, scratch)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_chain_copied_layer_by_layer_is_equal_and_stays_thin(driver: Driver, other: Driver, scratch: Path) -> None:
    base = make(driver, "base")
    write(base, 0, 8 * MIB, 7)
    top = make(driver, "top", backing=base)
    write(top, 4 * MIB, MIB, 9)
    new_base = make(other, "base")
    new_top = make(other, "top", backing=new_base)
    copy(base, to=new_base)
    copy(base, top, to=new_top, below=new_base)
    assert content(new_top, scratch) == content(top, scratch)
    assert other.allocated_bytes("top") < 2 * MIB
    assert qemu_img.measure([new_top], target=QCOW2).required_bytes < 2 * MIB


def write_at_random(image: Image, chance: random.Random) -> None:
    """Data and zeroes of any number of sectors at any sector, and discards."""
    commands = []
    for _ in range(40):
        length = chance.choice([1, 3, 8, 100, 128, 300, 2000]) * 512
        offset = chance.randrange((CAPACITY - length) // 512) * 512
        kind = chance.choice([f"write -P {chance.randrange(1, 256)}", "write -z", "write -z -u", "write -P 0"])
        commands += ["-c", f"{kind} {offset} {length}"]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, image.path], capture_output=True, check=True, timeout=60)


@pytest.mark.parametrize("seed", first_by_day(range(4)))
def test_a_volume_that_is_copied_alone_needs_nothing_below(
    driver: Driver, other: Driver, scratch: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same choices each time
    base = make(driver, "base")
    write_at_random(base, chance)
    top = make(driver, "top", backing=base)
    write_at_random(top, chance)
    expected = content(top, scratch)
    # The copy of the one below is not there yet, and the other cannot be opened.
    new_base = Image(other.path("base"), QCOW2, other.type)
    new_top = make(other, "top", backing=new_base)
    copy(Image(driver.path("gone"), QCOW2, driver.type), top, to=new_top, below=new_base, alone_bytes=CAPACITY)
    copy(base, to=make(other, "base"))
    assert content(new_top, scratch) == expected


@pytest.mark.parametrize("is_alone", [True, False])
def test_bitmaps_are_carried_with_what_they_have_recorded(driver: Driver, other: Driver, is_alone: bool) -> None:
    base = make(driver, "base")
    top = make(driver, "top", backing=base)
    for name, state in (("b0", "--enable"), ("b1", "--disable")):
        subprocess.run(["qemu-img", "bitmap", "--add", state, str(top.path), name], check=True)
    write(top, 4 * MIB, MIB, 9)
    new_base = make(other, "base")
    new_top = make(other, "top", backing=new_base)
    options = {"alone_bytes": CAPACITY} if is_alone else {}
    copy(base, top, to=new_top, below=new_base, with_bitmaps=True, **options)
    header = qcow2_header.read(new_top.path)
    assert qcow2_header.read_bitmaps(new_top.path, header) == (Bitmap("b0", True), Bitmap("b1", False))
    assert dirty_extents(new_top, "b0") == dirty_extents(top, "b0") == [(4 * MIB, MIB)]
    assert dirty_extents(new_top, "b1") == dirty_extents(top, "b1") == []


def dirty_extents(image: Image, bitmap: str) -> list[tuple[int, int]]:
    """Offset and length of what a bitmap has recorded, as a backup reads it over NBD."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "nbd"
        options = ["--read-only", "--persistent", "--format=qcow2", f"--bitmap={bitmap}", f"--socket={socket}"]
        server = subprocess.Popen(["qemu-nbd", *options, image.path])
        try:
            wait_until(socket.exists, "the NBD server listens")
            dirty = f"driver=nbd,server.type=unix,server.path={socket},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}"
            command = ["qemu-img", "map", "--output=json", "--image-opts", dirty]
            found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        finally:
            server.terminate()
            server.wait()
    # What is dirty is told as a hole.
    return [(part["start"], part["length"]) for part in found if not part["data"]]


@pytest.mark.parametrize("length", [40, pytest.param(250, marks=pytest.mark.nightly)])
def test_the_volumes_of_a_long_chain_are_copied_each_alone(file_driver: FileDriver, scratch: Path, length: int) -> None:
    layers: list[Image] = []
    copies: list[Image] = []
    for position in range(length):
        name = f"{position:03}-{'n' * 200}"
        layers.append(make(file_driver, f"a-{name}", backing=layers[-1] if layers else None))
        copies.append(make(file_driver, f"b-{name}", backing=copies[-1] if copies else None))
        header = f"driver=qcow2,file.driver=file,file.filename={layers[-1].path},backing="
        command = f"write -P {position % 255 + 1} {position * 64 * KIB} 64k"
        subprocess.run(["qemu-io", "--image-opts", "-c", command, header], capture_output=True, check=True)
        below = copies[-2] if position else None
        copy(*layers[-2:], to=copies[-1], below=below, alone_bytes=CAPACITY)
    assert qemu_img.is_equal(layers, copies)
    flat = make(file_driver, "flat")
    copy(*layers, to=flat)
    assert qemu_img.is_equal(layers, [flat])


def test_a_copy_done_twice_is_equal(driver: Driver, other: Driver, scratch: Path) -> None:
    source = make(driver, "v")
    write(source, MIB, MIB, 3)
    destination = make(other, "v")
    copy(source, to=destination)
    copy(source, to=destination)
    assert content(destination, scratch) == content(source, scratch)


def test_a_volume_is_filled_while_the_one_below_it_is_written_to(driver: Driver, other: Driver, scratch: Path) -> None:
    base = make(driver, "base")
    write(base, 0, 4 * MIB, 1)
    top = make(driver, "top", backing=base)
    write(top, MIB + 64 * KIB, 128 * KIB, 2)
    new_base = make(other, "base")
    new_top = make(other, "top", backing=new_base)
    command = ["qemu-io", "-f", "qcow2", str(new_base.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        print("length", file=writer.stdin, flush=True)
        assert "MiB" in writer.stdout.readline()
        copy(base, top, to=new_top, below=new_base)
        writer.communicate("quit\n")
    copy(base, to=new_base)
    assert content(new_top, scratch) == content(top, scratch)


def test_a_copy_that_is_no_longer_wanted_ends_its_program(driver: Driver, other: Driver) -> None:
    source = make(driver, "v")
    write(source, 0, 16 * MIB, 3)
    destination = make(other, "v")
    done = qemu_img.copy(
        [source],
        [destination],
        target_is_zero=True,
        bandwidth_bytes_per_second=MIB,
        on_progress=lambda _share: None,
        keep_on=lambda: False,
    )
    assert not done
    # A qemu-img that still wrote would hold the image's lock.
    write(destination, 0, 64 * KIB, 1)


WORK: dict[str, Callable[[Image, Image, Callable[[], bool]], object]] = {
    "create": lambda base, top, keep_on: qemu_img.create(top, CAPACITY, backing=base, keep_on=keep_on),
    "preallocate": lambda base, _top, keep_on: qemu_img.create(
        base, CAPACITY, backing=None, preallocate=True, keep_on=keep_on
    ),
    "measure": lambda base, top, keep_on: qemu_img.measure([base, top], target=QCOW2, keep_on=keep_on),
    "data_bytes": lambda _base, top, keep_on: qemu_img.data_bytes(
        top, cluster_bytes=64 * KIB, capacity_bytes=CAPACITY, keep_on=keep_on
    ),
    "commit": lambda base, top, keep_on: qemu_img.commit(top, base, keep_on=keep_on),
    "is_equal": lambda base, top, keep_on: qemu_img.is_equal([base, top], [base], keep_on=keep_on),
    "has_own_data": lambda _base, top, keep_on: qemu_img.has_own_data(top, keep_on=keep_on),
}


@pytest.mark.parametrize("work", WORK)
def test_all_work_ends_when_it_is_not_wanted_any_more(driver: Driver, work: str) -> None:
    base = make(driver, "base")
    top = make(driver, "top", backing=base)
    write(top, 0, 16 * MIB, 3)
    with pytest.raises(StoppedError):
        WORK[work](base, top, lambda: False)
    # A qemu-img that still worked would hold the image's lock.
    for image in (base, top):
        qemu_img.create(image, CAPACITY, backing=None)


def test_a_merge_that_was_stopped_is_made_again(driver: Driver, scratch: Path) -> None:
    base = make(driver, "base")
    write(base, 0, 4 * MIB, 1)
    top = make(driver, "top", backing=base)
    write(top, 2 * MIB, 16 * MIB, 2)
    expected = content(top, scratch)
    shares: list[float] = []
    with pytest.raises(StoppedError):
        qemu_img.commit(
            top,
            base,
            bandwidth_bytes_per_second=8 * MIB,
            on_progress=shares.append,
            keep_on=lambda: max(shares, default=0.0) == 0.0,
        )
    assert 0 < shares[-1] < 1
    assert content(top, scratch) == expected
    shares.clear()
    qemu_img.commit(top, base, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert content(base, scratch) == expected


def test_what_differs_is_not_equal(driver: Driver) -> None:
    one, other = make(driver, "one"), make(driver, "other")
    assert qemu_img.is_equal([one], [other])
    write(other, CAPACITY - 512, 512, 1)
    assert not qemu_img.is_equal([one], [other])


def test_a_copy_onto_a_volume_that_is_too_small_says_so(file_driver: FileDriver, scratch: Path) -> None:
    source = make(file_driver, "v")
    write(source, 0, 16 * MIB, 3)
    root = scratch / "small"
    root.mkdir()
    small = LoopDriver("small", root)
    destination = Image(small.create("v", 2 * MIB, OWNER), QCOW2, StorageType.BLOCK)
    qemu_img.create(destination, CAPACITY, backing=None)
    with pytest.raises(NoRoomError, match="No space left") as failed:
        copy(source, to=destination)
    assert str(destination.path) in failed.value.message
    small.remove("v")


def test_an_overlay_is_merged_below(driver: Driver, scratch: Path) -> None:
    base = make(driver, "base")
    write(base, 0, MIB, 1)
    top = make(driver, "top", backing=base)
    write(top, 512 * KIB, MIB, 2)
    expected = content(top, scratch)
    qemu_img.commit(top, base)
    assert content(base, scratch) == expected


@pytest.mark.parametrize("command", ["write -P 9 5M 512", "write -z 5M 64k", "write -z -u 5M 64k", "discard 5M 64k"])
def test_a_volume_that_was_written_to_is_told_from_one_that_was_only_made(driver: Driver, command: str) -> None:
    base = make(driver, "base")
    write(base, 0, 16 * MIB, 1)
    top = make(driver, "top", backing=base)
    assert not qemu_img.has_own_data(top)
    # Whatever lies below it, and wherever that is.
    driver.remove("base")
    assert not qemu_img.has_own_data(top)
    make(driver, "base")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, str(top.path)], capture_output=True, check=True)
    assert qemu_img.has_own_data(top)


def test_a_volume_that_is_not_formatted_yet_is_blank(driver: Driver) -> None:
    path = driver.create("v", MIB, OWNER)
    assert qcow2_header.is_blank(path)
    make(driver, "v")
    assert not qcow2_header.is_blank(path)


def test_what_a_volume_that_cannot_be_read_holds_is_not_told(driver: Driver) -> None:
    top = make(driver, "top")
    with top.path.open("r+b") as opened:
        opened.write(b"XXXX")
    with pytest.raises(MigrationError):
        qemu_img.has_own_data(top)


def test_what_an_interrupted_merge_has_taken_leaves_room_for_the_next(loop_driver: LoopDriver, scratch: Path) -> None:
    base = make(loop_driver, "base")
    write(base, 0, CAPACITY, 1)
    # As if it had been killed between its reference counts and its tables: all is taken, and nothing is entered.
    with base.path.open("r+b") as opened:
        opened.seek(_L1_TABLE_OFFSET_AT)
        opened.seek(int.from_bytes(opened.read(8)))
        opened.write(bytes(8))
    top = make(loop_driver, "top", backing=base)
    write(top, 0, CAPACITY, 2)
    expected = content(top, scratch)
    qemu_img.commit(top, base)
    assert content(base, scratch) == expected


def test_a_raw_volume_on_block_storage_matches_exactly_or_is_refused(loop_driver: LoopDriver) -> None:
    image = Image(loop_driver.create("v", CAPACITY, OWNER), RAW, StorageType.BLOCK)
    qemu_image.require_exact_size(image, loop_driver.size_bytes("v"), CAPACITY)
    with pytest.raises(MigrationError, match="must match exactly"):
        qemu_image.require_exact_size(image, loop_driver.size_bytes("v"), CAPACITY - 512)


def test_the_formats_are_stated_never_probed(file_driver: FileDriver, scratch: Path) -> None:
    """A guest that writes a qcow2 header to its raw disk must not have us read another file through it."""
    secret = scratch / "secret"
    secret.write_bytes(b"secret" * 1000)
    raw = make(file_driver, "v", image_format=RAW)
    crafted = scratch / "crafted"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", str(secret), "-F", "raw", str(crafted), str(CAPACITY)],
        check=True,
    )
    with raw.path.open("r+b") as disk:
        disk.write(crafted.read_bytes())
    assert virtual_size(raw) == CAPACITY
    destination = make(file_driver, "copy")
    copy(raw, to=destination)
    assert content(destination, scratch) == hashlib.sha256(raw.path.read_bytes()).hexdigest()
    assert images_named_by(raw.path, "raw") == ()


def test_what_can_be_opened_directly(driver: Driver) -> None:
    assert qemu_image.supports_direct_io(make(driver, "v").path)
    assert not qemu_image.supports_direct_io(Path("/proc/version"))


@pytest.fixture
def write_unseen(loop_driver: LoopDriver) -> Iterator[Callable[[Image], None]]:
    """Writes to a volume as QEMU does, past the page cache, which keeps what the volume's first MiB was before.

    Beside QEMU that takes a read in the midst of a write. Here it is certain, as it is the file that is written to. The
    device is kept open, as QEMU keeps it: the cache goes with the last who has it open.
    """
    with ExitStack() as opened:

        def write(image: Image) -> None:
            opened.enter_context(image.path.open("rb")).read(MIB)
            file = loop_driver.root / image.path.name
            writing = ["qemu-io", "-t", "none", "-f", "qcow2", "-c", f"write -P 7 0 {4 * MIB}", str(file)]
            subprocess.run(writing, check=True, capture_output=True)

        yield write


def test_what_the_page_cache_keeps_of_a_device_is_not_believed(
    loop_driver: LoopDriver, file_driver: FileDriver, write_unseen: Callable[[Image], None]
) -> None:
    image, plain = make(loop_driver, "v"), make(file_driver, "plain")
    write(plain, 0, 4 * MIB, 7)
    write_unseen(image)
    assert qemu_img.measure([image], target=QCOW2) == qemu_img.measure([plain], target=QCOW2)
    assert qemu_img.is_equal([image], [plain])


def test_what_is_merged_below_is_not_what_the_page_cache_keeps(
    loop_driver: LoopDriver, file_driver: FileDriver, write_unseen: Callable[[Image], None]
) -> None:
    base, plain = make(loop_driver, "base"), make(file_driver, "plain")
    top = make(loop_driver, "top", backing=base)
    write(plain, 0, 4 * MIB, 7)
    write_unseen(top)
    qemu_img.commit(top, base)
    assert qemu_img.is_equal([base], [plain])


def test_a_header_is_not_what_the_page_cache_keeps(loop_driver: LoopDriver) -> None:
    image = make(loop_driver, "v")
    with image.path.open("rb") as opened:
        opened.read(MIB)
        rebase = ["qemu-img", "rebase", "-t", "none", "-u", "-b", "below", "-F", "raw", str(loop_driver.root / "v")]
        subprocess.run(rebase, check=True)
        assert qcow2_header.read(image.path).backing_name == "below"
