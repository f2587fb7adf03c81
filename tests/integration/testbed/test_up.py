"""`python -m testbed up` ends without a trace, asked to or killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.testbed.traces import processes_naming
from tests.variants import first_by_day

_REPOSITORY = Path(__file__).resolve().parents[3]
_ALL_PROGRAMS = {"etcd", "kube-apiserver", "libvirtd", "virtlogd"}


@pytest.fixture
def up(scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A testbed in `scratch` that has said it is ready."""
    command = [sys.executable, "-m", "testbed", "up", "--bare", "--directory", str(scratch)]
    with subprocess.Popen(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert "Ctrl-C" in "".join(process.stdout.readline() for _ in range(3))
            yield process
        finally:
            process.kill()


@pytest.mark.nightly
@pytest.mark.parametrize("ending", first_by_day([signal.SIGINT, signal.SIGTERM]))
def test_it_ends_when_asked(up: subprocess.Popen[str], scratch: Path, ending: signal.Signals) -> None:
    assert {name for name, _ in processes_naming(scratch)} >= _ALL_PROGRAMS
    up.send_signal(ending)
    assert up.wait(60) == 0
    assert processes_naming(scratch) == set()


def test_the_kernel_ends_it_when_it_is_killed(up: subprocess.Popen[str], scratch: Path) -> None:
    up.kill()
    up.wait(60)
    deadline = time.monotonic() + 30
    while left := processes_naming(scratch):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
