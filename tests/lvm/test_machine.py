"""The lane itself: a device-mapper, an LVM and a udev that are real, and a control plane that answers."""

import json
import subprocess
from pathlib import Path

import pytest

from testbed.lvm_lane.access import Access
from testbed.lvm_lane.inside import ACCESS, NODE, PROJECT

pytestmark = pytest.mark.lvm

MEBIBYTE = 2**20


def lvm(*command: str) -> str:
    """Runs one of LVM's commands."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_volume_group_has_volumes_that_udev_names() -> None:
    lvm("vgcreate", "plain", "/dev/disk/by-id/virtio-lvm-spare")
    try:
        lvm("lvcreate", "--yes", "--size", "16m", "--name", "volume", "plain")
        device = Path("/dev/plain/volume")
        assert device.resolve().name.startswith("dm-")
        assert device.is_block_device()
        printed = lvm("lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", "lv_size", "plain")
        assert json.loads(printed)["report"][0]["lv"] == [{"lv_size": str(16 * MEBIBYTE)}]
    finally:
        lvm("vgremove", "--yes", "plain")
        lvm("pvremove", "/dev/disk/by-id/virtio-lvm-spare")


def test_the_control_plane_outside_answers() -> None:
    assert NODE in Access(PROJECT / ACCESS).kubectl("get", "nodes")
