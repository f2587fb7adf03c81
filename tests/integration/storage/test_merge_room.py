"""Merges of real qcow2 volumes on loop devices, with nobody to extend them meanwhile: the room given is enough."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from diskmigration.agent.migration.journal import JournalVolume
from diskmigration.agent.migration.steps.cold_merge import merge_cold
from diskmigration.agent.storage import qcow2_allocation, qemu_img
from diskmigration.agent.storage.domains import OpenDomain
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.qemu_image import Image
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError, Reason
from diskmigration.api.storage_domain import StorageDomain, StorageType
from tests.integration.storage.conftest import OWNER

KIB = 2**10
MIB = 2**20
CAPACITY = 64 * MIB
LAYOUTS = [
    "cluster_size=64k",
    "cluster_size=2M",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=64",
    "cluster_size=64k,refcount_bits=1",
    "cluster_size=64k,refcount_bits=4",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=64k,compat=0.10",
]
OF_MIGRATIONS = ["cluster_size=64k", "cluster_size=16k,extended_l2=on"]
QUICK = LAYOUTS[:3]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout


def end_of(path: Path) -> int:
    """Return where the last cluster in use ends, as qemu-img counts it."""
    printed = run("qemu-img", "check", "-f", "qcow2", "--output=json", path)
    return int(json.loads(printed)["image-end-offset"])


def open_domain(driver: LoopDriver) -> OpenDomain:
    """The smallest head room and chunks that may be."""
    thin = {"highWatermark": MIB, "chunkSize": MIB, "replicationChunkSize": MIB}
    spec = {"loop": {"path": str(driver.root)}, "thinProvisioning": thin}
    return OpenDomain(StorageDomain.from_wire({"metadata": {"name": driver.name}, "spec": spec}), driver)


def volume(driver: LoopDriver, name: str, size: int, options: str, *, backing: Path | None = None) -> JournalVolume:
    path = driver.create(name, size, OWNER)
    below = ["-u", "-b", str(backing), "-F", "qcow2"] if backing is not None else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *below, "-o", options, path, str(CAPACITY))
    return JournalVolume(
        name=name, path=str(path), format=VolumeFormat.QCOW2, type=StorageType.BLOCK, capacity_bytes=CAPACITY
    )


def write(path: str, choice: random.Random, count: int) -> None:
    """Write to places here and there, small and large."""
    commands = []
    for _ in range(count):
        length = choice.choice([512, 4 * KIB, 64 * KIB, 300 * KIB])
        offset = choice.randrange(0, (CAPACITY - length) // 512) * 512
        commands += ["-c", f"write -P {choice.randrange(1, 255)} {offset} {length}"]
    # By its own name, as qemu-io opens what lies below too.
    run("qemu-io", "-f", "qcow2", *commands, path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_far_a_volume_is_filled_is_what_qemu_img_counts(loop_driver: LoopDriver, layout: str) -> None:
    base = volume(loop_driver, "base", 2 * CAPACITY, layout)
    choice = random.Random(layout)  # noqa: S311 - no secret, but the same each time
    for _ in range(4):
        found = qcow2_allocation.read(Path(base.path))
        assert found.end_bytes == end_of(Path(base.path))
        assert found.capacity_bytes == CAPACITY
        write(base.path, choice, 20)


@pytest.mark.parametrize(
    ("base_layout", "overlay_layout"),
    [
        pytest.param(below, above, marks=[] if below in QUICK else pytest.mark.nightly)
        for below in LAYOUTS
        for above in OF_MIGRATIONS
    ],
)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 5))])
def test_a_merge_is_given_enough_and_not_much_more(
    loop_driver: LoopDriver, base_layout: str, overlay_layout: str, seed: int
) -> None:
    choice = random.Random(f"{base_layout} {overlay_layout} {seed}")  # noqa: S311 - as above
    base = volume(loop_driver, "base", 2 * CAPACITY, base_layout)
    write(base.path, choice, choice.randrange(0, 30))
    # As full as can be.
    used = -(-end_of(Path(base.path)) // 4096) * 4096
    loop_driver.remove("base-copy")
    file = loop_driver.root / "base-copy"
    run("dd", f"if={base.path}", f"of={file}", "bs=4096", f"count={used // 4096}", "status=none")
    path = loop_driver.create("base-copy", used, OWNER)
    base = base.model_copy(update={"name": "base-copy", "path": str(path)})
    overlay = volume(loop_driver, "overlay", 2 * CAPACITY, overlay_layout, backing=path)
    write(overlay.path, choice, choice.randrange(1, 60))
    held = qemu_img.data_bytes(
        overlay.image, cluster_bytes=qcow2_allocation.read(path).cluster_bytes, capacity_bytes=CAPACITY
    )

    merge_cold(overlay=overlay, base=base, home=open_domain(loop_driver), keep_on=lambda: True)

    size = loop_driver.size_bytes("base-copy")
    assert end_of(path) <= size
    # The data may all be there already, and each cluster may need a table of its own.
    assert size <= used + 2 * held + 12 * qcow2_allocation.read(path).cluster_bytes + 3 * MIB
    again = loop_driver.size_bytes("base-copy")
    merge_cold(overlay=overlay, base=base, home=open_domain(loop_driver), keep_on=lambda: True, first_end=used)
    assert loop_driver.size_bytes("base-copy") == again, "what is there already is not added again"


@pytest.mark.parametrize(
    ("damage_at", "value"),
    [
        (48, (2**62).to_bytes(8, "big")),
        (56, (2**31).to_bytes(4, "big")),
        (96, (9).to_bytes(4, "big")),
    ],
    ids=["a-table-past-the-end", "a-table-that-is-too-large", "impossible-refcounts"],
)
def test_refcounts_that_cannot_be_are_an_error(loop_driver: LoopDriver, damage_at: int, value: bytes) -> None:
    base = volume(loop_driver, "base", 2 * CAPACITY, "cluster_size=64k")
    with Path(base.path).open("r+b") as opened:
        opened.seek(damage_at)
        opened.write(value)
    with pytest.raises(MigrationError) as raised:
        qcow2_allocation.read(Path(base.path))
    assert raised.value.reason in (Reason.DISK_NOT_SUPPORTED, Reason.STORAGE_FAILED)


def test_a_raw_volume_is_made_as_large_as_a_disk_that_was_resized(loop_driver: LoopDriver) -> None:
    path = loop_driver.create("base", CAPACITY, OWNER)
    base = JournalVolume(
        name="base", path=str(path), format=VolumeFormat.RAW, type=StorageType.BLOCK, capacity_bytes=CAPACITY
    )
    overlay = volume(loop_driver, "overlay", 2 * CAPACITY, "cluster_size=64k")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", path, "-F", "raw", overlay.path)
    run("qemu-img", "resize", "-q", "-f", "qcow2", overlay.path, str(CAPACITY + 4 * MIB))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 {CAPACITY + MIB} {MIB}", overlay.path)

    merge_cold(overlay=overlay, base=base, home=open_domain(loop_driver), keep_on=lambda: True)

    assert loop_driver.size_bytes("base") == CAPACITY + 4 * MIB
    run("qemu-io", "-f", "raw", "-c", f"read -P 7 {CAPACITY + MIB} {MIB}", path)


def test_what_a_volume_holds_is_counted_in_clusters_of_the_one_below(loop_driver: LoopDriver) -> None:
    overlay = volume(loop_driver, "overlay", 2 * CAPACITY, OF_MIGRATIONS[1])
    image: Image = overlay.image
    assert qemu_img.data_bytes(image, cluster_bytes=64 * KIB, capacity_bytes=CAPACITY) == 0
    run("qemu-io", "-f", "qcow2", "-c", "write 0 512", "-c", f"write {10 * MIB} 1024", overlay.path)
    held = {size: qemu_img.data_bytes(image, cluster_bytes=size, capacity_bytes=CAPACITY) for size in (16 * KIB, 2**21)}
    assert held == {16 * KIB: 32 * KIB, 2**21: 2**22}
