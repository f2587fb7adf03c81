"""Every process that has a volume open is found, by whatever name, node or mount namespace it opened it."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from diskmigration.agent.storage import loop_devices, openers
from diskmigration.agent.storage.file import FileDriver
from diskmigration.agent.storage.loop import LoopDriver
from diskmigration.agent.storage.openers import Opener, openers_of, openers_of_any
from diskmigration.api.errors import MigrationError, Reason
from testbed import exports
from testbed.exports import HANG, Faults
from tests.integration.own_dev import in_own_dev
from tests.integration.storage.conftest import OWNER
from tests.variants import first_by_day
from tests.waiting import wait_until

MIB = 2**20
_NAME = Path(sys.executable).name
_HOLD = "import os, sys; os.open(sys.argv[2], int(sys.argv[1])); print(flush=True); sys.stdin.read()"


@contextmanager
def holding(command: list[str]) -> Iterator[int]:
    """The process that runs the command, once it has opened what it was told to."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        try:
            yield process.pid
        finally:
            process.communicate()


def opener(flags: int = os.O_RDWR) -> list[str]:
    return [sys.executable, "-c", _HOLD, str(flags)]


def opened(path: Path, flags: int = os.O_RDWR) -> list[str]:
    return [*opener(flags), str(path)]


def pids(path: Path) -> list[int]:
    return [opener.pid for opener in openers_of(path)]


@pytest.fixture
def volume(driver: FileDriver | LoopDriver) -> Path:
    driver.create("v", 4 * MIB, OWNER)
    return driver.path("v")


@pytest.fixture
def device(loop_driver: LoopDriver) -> Path:
    return loop_driver.create("v", 4 * MIB, OWNER)


@pytest.mark.parametrize(("flags", "writes"), [(os.O_RDONLY, False), (os.O_WRONLY, True), (os.O_RDWR, True)])
def test_a_process_is_seen_for_as_long_as_it_has_the_volume_open(volume: Path, flags: int, writes: bool) -> None:
    assert openers_of(volume) == ()
    with holding(opened(volume, flags)) as pid:
        assert openers_of(volume) == (Opener(pid, _NAME, writes),)
    assert openers_of(volume) == ()


def test_a_process_that_reads_and_writes_is_one_that_writes(volume: Path) -> None:
    twice = _HOLD.replace("os.open(", "os.open(sys.argv[2], os.O_RDONLY); os.open(", 1)
    with holding([sys.executable, "-c", twice, str(os.O_RDWR), str(volume)]) as pid:
        assert openers_of(volume) == (Opener(pid, _NAME, writes=True),)


def test_a_device_node_of_another_mount_namespace_is_the_same_device(device: Path, scratch: Path) -> None:
    own_dev = scratch / "own-dev"
    own_dev.mkdir()
    with holding(in_own_dev(device, own_dev, opener())) as pid:
        assert openers_of(device) == (Opener(pid, _NAME, writes=True),)


def test_a_file_by_another_name_is_the_same_file(file_driver: FileDriver, scratch: Path) -> None:
    path = file_driver.create("v", 4 * MIB, OWNER)
    mounted = scratch / "elsewhere"
    mounted.mkdir()
    script = f'mount --bind "{path.parent}" "{mounted}" && exec "$@"'
    elsewhere = ["unshare", "--mount", "--propagation=private", "sh", "-ec", script, "sh"]
    with holding([*elsewhere, *opened(mounted / "v")]) as pid:
        assert pids(path) == [pid]


def test_a_loop_device_and_its_file_count_as_one(device: Path, loop_driver: LoopDriver) -> None:
    file = loop_driver.root / "v"
    for path in (device, file):
        with holding(opened(path)) as pid:
            assert pids(device) == pids(file) == [pid]


def test_a_second_loop_device_on_the_same_file_counts_too(device: Path, loop_driver: LoopDriver) -> None:
    second = subprocess.run(
        ["losetup", "--find", "--show", str(loop_driver.root / "v")], check=True, capture_output=True, text=True
    ).stdout.strip()
    with holding(opened(Path(second))) as pid:
        assert pids(device) == [pid]


def test_many_volumes_are_looked_for_at_once(file_driver: FileDriver) -> None:
    paths = [file_driver.create(f"v{number}", MIB, OWNER) for number in range(4)]
    with ExitStack() as held:
        expected = {path: [held.enter_context(holding(opened(path)))] for path in paths[:3]}
        found = openers_of_any(paths)
    assert {path: [opener.pid for opener in found[path]] for path in paths} == {**expected, paths[3]: []}


def test_a_mounted_device_is_opened_by_the_kernel(device: Path, scratch: Path) -> None:
    mounted = scratch / "mounted"
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    script = 'mount "$1" "$2" && echo && read -r _'
    arguments = ["sh", str(device), str(mounted)]
    with holding(["unshare", "--mount", "--propagation=private", "sh", "-ec", script, *arguments]):
        [opener] = openers_of(device)
    assert (opener.pid, opener.writes) == (0, True)
    assert "mounted" in str(opener)


def test_nobody_has_open_what_is_not_there(tmp_path: Path) -> None:
    assert openers_of(tmp_path / "v") == ()


def test_what_this_process_has_open_itself_is_left_out(volume: Path) -> None:
    with volume.open("rb"):
        assert openers_of(volume) == ()


def test_a_volume_that_cannot_be_asked_for_is_no_volume_that_nobody_has_open(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MigrationError) as caught:
        openers_of(tmp_path / "a")
    assert caught.value.reason is Reason.STORAGE_FAILED


@pytest.fixture
def libvirt_socket(scratch: Path) -> Iterator[Path]:
    """One that somebody outside the agent's pid namespace listens on."""
    path = scratch / "sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        yield path
    openers.rely_on_sockets([])


_ASK = """
import sys
from pathlib import Path
from diskmigration.agent.storage import loop_devices, openers
from diskmigration.api.errors import MigrationError
openers.rely_on_sockets([Path(sys.argv[1])])
try:
    print(openers.openers_of(Path(sys.argv[2])))
except MigrationError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    ("namespace", "answer"),
    [([], "writes=True"), (["unshare", "--pid", "--fork", "--mount-proc"], "hostPID")],
    ids=["of the host", "of its own"],
)
def test_in_a_pid_namespace_of_its_own_the_agent_says_that_it_cannot_tell(
    file_driver: FileDriver, libvirt_socket: Path, namespace: list[str], answer: str
) -> None:
    path = file_driver.create("v", MIB, OWNER)
    with holding(opened(path)):
        command = [*namespace, sys.executable, "-c", _ASK, str(libvirt_socket), str(path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        asked = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert answer in asked.stdout


def test_without_libvirt_nobody_knows_whether_its_processes_are_seen(volume: Path, libvirt_socket: Path) -> None:
    openers.rely_on_sockets([libvirt_socket.with_name("none")])
    with pytest.raises(MigrationError, match="does not answer"):
        openers_of(volume)
    openers.rely_on_sockets([libvirt_socket.with_name("none"), libvirt_socket])
    assert openers_of(volume) == ()


@dataclass(frozen=True)
class Export:
    """A mount of a server that may fail or hang, and a file there."""

    faults: Faults
    file: Path

    @contextmanager
    def attached(self, answer: int) -> Iterator[Path]:
        """A loop device on the file, of which the server answers that in the block."""
        device = Path(run("losetup", "--find", "--show", "--read-only", str(self.file)))
        with self.faults.answering("getattr", answer):
            yield device
        run("losetup", "--detach", str(device))
        # Not before whoever waited for the server has let go of it.
        wait_until(lambda: not Path(f"/sys/block/{device.name}/loop").exists(), f"{device} is detached")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def export(scratch: Path) -> Iterator[Export]:
    source, at = scratch / "source", scratch / "mount"
    source.mkdir()
    at.mkdir()
    (source / "f").write_bytes(bytes(4 * MIB))
    with exports.faulty(source, at) as faults:
        yield Export(faults, at / "f")


ANSWERS = first_by_day([HANG, errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_file_that_is_open_on_a_mount_whose_server_is_away_is_no_obstacle(
    volume: Path, export: Export, answer: int
) -> None:
    with holding(opened(export.file, os.O_RDONLY)), holding(opened(volume)) as pid:
        with export.faults.answering("getattr", answer):
            assert pids(volume) == [pid]
        assert len(pids(export.file)) == 1
    assert pids(volume) == []


@pytest.fixture
def silent_device(export: Export, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A loop device whose file lies on a mount whose server is away, as does an image of a CD."""
    monkeypatch.setattr(loop_devices, "_ANSWER_SECONDS", 1.0)
    with export.attached(request.param) as device:
        yield device


# Loop devices are the whole machine's: other tests that look through them wait for these for a moment.
SILENCE = first_by_day([HANG, errno.EIO])


@pytest.mark.parametrize("silent_device", SILENCE, indirect=True)
def test_a_file_that_nobody_has_open_is_behind_no_loop_device_that_does_not_tell_its_own(
    file_driver: FileDriver, silent_device: Path
) -> None:
    path = file_driver.create("v", MIB, OWNER)
    assert openers_of(path) == ()
    with holding(opened(path, os.O_RDONLY)) as pid:
        unknown, known = openers_of(path)
    assert (unknown.pid, unknown.writes, known.pid) == (0, True, pid)
    assert str(silent_device) in str(unknown)
    assert openers_of(path) == ()


@pytest.mark.parametrize("silent_device", SILENCE, indirect=True)
def test_a_file_that_a_loop_device_has_may_have_a_second_one_that_does_not_tell(
    device: Path, silent_device: Path
) -> None:
    [unknown] = openers_of(device)
    assert str(silent_device) in str(unknown)


def test_to_ask_who_has_a_file_open_sends_this_process_no_signal_that_ends_it(
    file_driver: FileDriver, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease is taken for that, whose holder is told of whoever opens the file meanwhile: here, again and again."""
    monkeypatch.setattr(loop_devices, "_ANSWER_SECONDS", 0.1)
    path = file_driver.create("v", MIB, OWNER)
    script = 'echo; while ! read -t 0; do : < "$1"; done; read -r _'
    with export.attached(HANG), holding(["bash", "-c", script, "bash", str(path)]):
        for _ in range(5):
            openers_of(path)
