"""The largest disks of qcow2 volumes: what qemu-img makes, and what it refuses."""

import subprocess
from pathlib import Path

import pytest

from diskmigration.agent.storage.qcow2_limits import LARGEST_CAPACITY, LARGEST_CAPACITY_BY_SECTOR, largest_capacity
from tests.variants import first_by_day

KIB = 2**10
TIB = 2**40


def is_made(path: Path, size: int, *options: str) -> bool:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), str(size)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("cluster_bytes", first_by_day([16 * KIB, 4 * KIB, 512], 2))
def test_it_is_what_qemu_img_makes_at_most(tmp_path: Path, cluster_bytes: int) -> None:
    limit = largest_capacity(cluster_bytes, has_subclusters=False)
    options = ("-o", f"cluster_size={cluster_bytes}")
    assert is_made(tmp_path / "v", limit, *options)
    assert not is_made(tmp_path / "v", limit + cluster_bytes, *options)


def test_subclusters_halve_it(tmp_path: Path) -> None:
    assert LARGEST_CAPACITY_BY_SECTOR == 64 * TIB
    options = ("-o", "cluster_size=16k,extended_l2=on")
    assert is_made(tmp_path / "v", 64 * TIB, *options)
    assert not is_made(tmp_path / "v", 64 * TIB + 16 * KIB, *options)


def test_the_volumes_of_this_project_can_have_two_pebibytes(tmp_path: Path) -> None:
    assert LARGEST_CAPACITY == 2048 * TIB
    assert not is_made(tmp_path / "v", LARGEST_CAPACITY + 64 * KIB)
