"""Real programs that work for long: followed by what they do, stopped when told, given up when they do nothing."""

import threading
import time
from pathlib import Path

import pytest

from diskmigration.agent.storage import command, long_command
from diskmigration.agent.storage.command import Ended
from diskmigration.agent.storage.driver import NoRoomError
from diskmigration.agent.storage.long_command import StoppedError, Watch
from diskmigration.api.errors import MigrationError, Reason
from tests.integration.storage.frozen import file_system, frozen
from tests.waiting import PATIENCE, wait_until

SHORT_SECONDS = 2.0
LONG_SECONDS = 30 * PATIENCE


def run(script: str, watch: Watch) -> Ended:
    return long_command.run(["sh", "-c", script], doing="working", failure=Reason.COPY_FAILED, watch=watch)


def test_what_it_prints_comes_as_it_is_printed() -> None:
    came = threading.Event()
    printed: list[str] = []

    def note(text: str) -> None:
        printed.append(text)
        came.set()

    ended = run("echo one; read -r _ < /dev/null; echo two; echo three >&2", Watch(on_output=note))
    assert came.is_set()
    assert "".join(printed) == ended.printed == "one\ntwo\n"
    assert ended.said == "three\n"


@pytest.mark.parametrize("stream", [1, 2])
def test_one_that_prints_much_does_not_wait_for_a_reader(stream: int) -> None:
    ended = run(f"head -c 1000000 /dev/zero | tr '\\0' x >&{stream}", Watch())
    assert len(ended.printed + ended.said) == 1_000_000


@pytest.mark.parametrize(
    "script",
    ["while :; do :; done", "while :; do read -r _ < /proc/self/stat; done", "while :; do echo .; sleep 0.1; done"],
    ids=["computes", "reads", "prints"],
)
def test_one_that_does_something_is_not_given_up(script: str) -> None:
    beats: list[float] = []
    began_at = time.monotonic()

    def is_short() -> bool:
        return time.monotonic() < began_at + 2 * SHORT_SECONDS or len(beats) < 3

    with pytest.raises(StoppedError):
        run(script, Watch(is_short, on_beat=lambda: beats.append(time.monotonic()), patience_seconds=SHORT_SECONDS))
    assert len(beats) >= 3


@pytest.mark.parametrize("script", ["sleep 1000", "kill -STOP $$"], ids=["sleeps", "stopped"])
def test_one_that_does_nothing_is_given_up(script: str) -> None:
    with pytest.raises(MigrationError, match="read, written and computed nothing for 2 s") as failed:
        run(script, Watch(patience_seconds=SHORT_SECONDS))
    assert failed.value.reason is Reason.COPY_FAILED


def test_one_that_is_told_to_stop_is_gone(scratch: Path) -> None:
    number = scratch / "pid"
    with pytest.raises(StoppedError):
        run(f"echo $$ > {number}; exec sleep 1000", Watch(keep_on=lambda: not number.exists()))
    wait_until(lambda: not Path(f"/proc/{number.read_text().strip() or 'self'}").exists(), "it is gone")


def test_its_failure_is_told(scratch: Path) -> None:
    with pytest.raises(MigrationError, match="While working, sh answered: so it is"):
        run("echo so it is >&2; exit 3", Watch())
    with pytest.raises(NoRoomError):
        run("head -c 1 /dev/zero > /dev/full", Watch())
    ended = long_command.run(
        ["sh", "-c", "exit 1"], doing="working", failure=Reason.COPY_FAILED, watch=Watch(), accepted=(0, 1)
    )
    assert ended.status == 1


@pytest.mark.parametrize("how", ["told to stop", "does nothing", "in little time"])
def test_one_that_cannot_end_is_not_waited_for(scratch: Path, how: str) -> None:
    began_at = time.monotonic()
    with file_system(scratch) as mount, frozen(mount):
        script = f"echo x > {mount / 'file'}"
        if how == "told to stop":
            with pytest.raises(StoppedError):
                run(script, Watch(keep_on=lambda: time.monotonic() < began_at + SHORT_SECONDS))
        elif how == "does nothing":
            with pytest.raises(MigrationError, match="given up"):
                run(script, Watch(patience_seconds=SHORT_SECONDS))
        else:
            with pytest.raises(MigrationError, match="did not answer within 2 s"):
                command.run(["sh", "-c", script], doing="working", timeout=SHORT_SECONDS)
        assert time.monotonic() - began_at < LONG_SECONDS
