"""A file that is kept on the host is the old one or the new one, and root's alone."""

import stat
from pathlib import Path

import pytest

from diskmigration.agent.storage.host_file import replace

NAME = "kept.json"


def test_the_file_is_roots_alone_and_is_replaced_as_a_whole(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o755)
    replace(directory / NAME, "old")
    replace(directory / NAME, "new")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == [NAME]
    assert (directory / NAME).read_text() == "new"


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    replace(tmp_path / NAME, "old")
    # Not even root replaces a directory by opening it.
    (tmp_path / f"{NAME}.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace(tmp_path / NAME, "new")
    assert (tmp_path / NAME).read_text() == "old"
