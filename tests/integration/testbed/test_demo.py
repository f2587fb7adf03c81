"""The demo as its user runs it: it passes, and leaves nothing behind, interrupted or not."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.cluster import loops
from tests.integration.testbed.traces import processes_naming

_REPOSITORY = Path(__file__).resolve().parents[3]
_DIRECTORY = re.compile(r"All is in (/var/tmp/\S+), and goes with the demo")
_ENDING_TIMEOUT_SECONDS = 60


@contextmanager
def running_demo() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "testbed.demo", "--quick"]
    with subprocess.Popen(
        command, cwd=_REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What the demo printed, up to the first line with that word in it."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if word in line:
            return "".join(printed)
    pytest.fail(f"The demo ended before it said {word}:\n{''.join(printed)}")


def directory_of(printed: str) -> Path:
    told = _DIRECTORY.search(printed)
    assert told is not None, printed
    return Path(told[1])


def assert_nothing_left(directory: Path) -> None:
    # Any process's mounts are looked at too.
    assert processes_naming(directory) == set()
    assert not directory.exists()


def loop_devices() -> set[str]:
    """Each with the file behind it, by its inode: its path is that of another mount namespace."""
    command = ["losetup", "--list", "--noheadings", "--raw", "--output=NAME,BACK-MAJ:MIN,BACK-INO"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


@pytest.mark.nightly
def test_it_moves_the_disk_there_and_back_and_passes() -> None:
    with running_demo() as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert printed.endswith("\nPASS\n"), printed
    for name in ("web-1-to-block", "web-1-to-file"):
        assert re.search(rf"{name} .* Succeeded +100% ", printed), printed
    assert "Traceback" not in printed
    assert_nothing_left(directory_of(printed))


@pytest.mark.nightly
def test_it_leaves_nothing_when_it_is_interrupted_in_mid_migration() -> None:
    with running_demo() as process:
        printed = read_until(process, "Replicating")
        directory = directory_of(printed)
        assert {"libvirtd", "etcd", "python"} <= {
            re.sub(r"[\d.]+$", "", name) for name, _ in processes_naming(directory)
        }
        ours = loops.attached(directory)
        assert ours
        attached = {line for line in loop_devices() if line.split()[0] in ours}
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=_ENDING_TIMEOUT_SECONDS)
    assert process.returncode == 128 + signal.SIGINT, rest
    assert "Nothing is left behind" in rest
    assert "Traceback" not in rest
    assert_nothing_left(directory)
    assert not attached & loop_devices()
