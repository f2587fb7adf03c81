"""What a program answered, told apart by the kernel's words and never by a name."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.agent.storage.failures import failure_of_program
from diskmigration.api.errors import MigrationError, Reason

FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
OTHERS = [os.strerror(number) for number in (errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOENT)]
ANSWERS = [
    "qemu-img: Could not open '{name}': Could not open '{name}': {why}",
    "qemu-img: {name}: error while converting qcow2: {why}",
    "qemu-img: error while writing at byte 0: {why}\nqemu-img: error while writing at byte 65536: {why}\n",
    "losetup: {name}: failed to set up loop device: {why}",
    "blkdiscard: {name}: BLKZEROOUT ioctl failed: {why}\n",
]
NAMES = st.lists(st.sampled_from([*FULL, *OTHERS, "'", ": ", "\n", "/", "a"]), min_size=1, max_size=5).map("".join)


def failure(answer: str, doing: str) -> MigrationError:
    return failure_of_program(answer, doing=f"copying {doing}", program="p", reason=Reason.COPY_FAILED)


@given(st.sampled_from(ANSWERS), NAMES, st.sampled_from([*FULL, *OTHERS]))
def test_a_name_never_changes_what_an_answer_means(template: str, name: str, why: str) -> None:
    error = failure(template.format(name=name, why=why), doing=name)
    assert isinstance(error, NoRoomError) == (why in FULL)
    assert why in error.message


@pytest.mark.parametrize("name", FULL)
def test_a_volume_that_is_named_like_a_failure_is_no_failure(name: str) -> None:
    """An answer without the kernel's words that ends with a name."""
    error = failure(f'qemu-img: Failed to get "write" lock\nIs another process using the image [{name}]?', doing=name)
    assert not isinstance(error, NoRoomError)
    assert error.reason is Reason.COPY_FAILED
