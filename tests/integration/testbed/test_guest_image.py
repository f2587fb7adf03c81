"""The guest's image is made anew when what it is made of changes, and only then."""

import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.guest.image import GuestImage, guest_image


@pytest.fixture
def image(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> GuestImage:
    """An image in a cache of its own, with the kernel of the real one."""
    kept = guest_image().kernel.parent
    # Go's cache stays where it is: it would else move with the variable below.
    go_cache = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("GOCACHE", go_cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(scratch))
    shutil.copytree(kept, scratch / "diskmigration" / kept.name)
    return guest_image()


def test_another_kernel_gets_its_own_initramfs(image: GuestImage) -> None:
    with image.kernel.open("ab") as kernel:
        kernel.write(b"another")
    other = guest_image()
    assert other.initrd != image.initrd
    assert other.initrd.exists()


def test_an_image_that_is_there_is_not_made_again(image: GuestImage) -> None:
    made = image.initrd.stat()
    assert guest_image() == image
    assert image.initrd.stat().st_ino == made.st_ino


@pytest.mark.nightly
def test_a_kernel_that_lacks_a_module_is_fetched_anew(image: GuestImage) -> None:
    module = image.kernel.parent / "virtio_blk.ko"
    module.unlink()
    assert guest_image().kernel == image.kernel
    assert module.stat().st_size > 0
