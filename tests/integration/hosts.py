"""How libvirt runs QEMU in these tests."""

import os

import pytest

from testbed.libvirt_host import AS_ROOT, STOCK

HOST = os.environ.get("DISKMIGRATION_TEST_HOST", "stock")
QEMU_SETTINGS = {"stock": STOCK, "root": AS_ROOT}[HOST]

needs_own_dev = pytest.mark.skipif(
    not QEMU_SETTINGS.has_own_dev,
    reason="a QEMU without a /dev of its own sees the agent's lock on a device",
)
