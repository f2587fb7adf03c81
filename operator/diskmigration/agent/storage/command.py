"""Programs that are done in little time, however large the disk. long_command.py has the others.

Arguments are a list, never a shell; no name from a user starts with a dash.
"""

import logging
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage import failures
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 120.0
_KILL_SECONDS = 5.0
# A program repeats the names that it met, and those may hold any byte.
NOT_TEXT = "backslashreplace"

# A copy must not outlive the agent that started it: the next agent would start a second one onto the same volume.
_DIE_WITH_PARENT = ("--pdeathsig", "KILL", "--")
# What root's files on other file systems take; a server that squashes root does not ask for capabilities.
_READS_AND_WRITES_ALL = "-all,+dac_override,+dac_read_search"


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, what it printed, and what it said beside that."""

    status: int
    printed: str
    said: str


def started(arguments: Sequence[str], credentials: Credentials | None, *, is_root_elsewhere: bool) -> list[str]:
    """Return the whole command line of a program that ends with the agent.

    In one call of setpriv: a change of credentials makes the kernel forget the signal.
    """
    options: list[str] = []
    if credentials is not None:
        options = ["--reuid", str(credentials.uid), "--regid", str(credentials.gid), "--clear-groups"]
        if is_root_elsewhere:
            options += ["--inh-caps", _READS_AND_WRITES_ALL, "--ambient-caps", _READS_AND_WRITES_ALL]
    return ["setpriv", *options, *_DIE_WITH_PARENT, *arguments]


def run(
    arguments: Sequence[str],
    *,
    doing: str,
    failure: Reason = Reason.STORAGE_FAILED,
    timeout: float = TIMEOUT_SECONDS,
    credentials: Credentials | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    With `credentials` it opens files as that user where the file system asks for one, and as root does elsewhere.

    Raises:
        MigrationError: it failed or took longer than `timeout` seconds; the message holds what it answered.
        NoRoomError: it met a full file system.
    """
    command = started(arguments, credentials, is_root_elsewhere=True)
    return _done(command, doing=doing, failure=failure, timeout=timeout, accepted=(0,)).printed


def status(
    arguments: Sequence[str],
    *,
    doing: str,
    accepted: Sequence[int],
    timeout: float,
    credentials: Credentials | None = None,
) -> int:
    """Run a program whose exit status is its answer.

    With `credentials` it runs as that user and nothing more.

    Raises:
        MigrationError: StorageFailed, for any other status, or when it took longer than `timeout` seconds.
    """
    command = started(arguments, credentials, is_root_elsewhere=False)
    done = _done(command, doing=doing, failure=Reason.STORAGE_FAILED, timeout=timeout, accepted=accepted)
    return done.status


def _done(command: Sequence[str], *, doing: str, failure: Reason, timeout: float, accepted: Sequence[int]) -> Ended:
    process = _open(command)
    try:
        printed, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise MigrationError(
            failure, f"While {doing}, {_program(command)} did not answer within {timeout:.0f} s."
        ) from error
    finally:
        end(process)
    if process.returncode not in accepted:
        answer = (said or printed).strip()
        raise failures.failure_of_program(answer, doing=doing, program=_program(command), reason=failure)
    return Ended(process.returncode, printed, said)


def _open(command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
    """Start a program that reads nothing, and whose words are read; `options` are further ones of Popen."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors=NOT_TEXT,
        **options,
    )


def end(process: "subprocess.Popen[Any]", on_end: Callable[[], None] = lambda: None) -> None:
    """Kill a program unless it has ended. One that cannot end, as its storage does not answer, is not waited for.

    `on_end` is called when it has ended, be that later and in another thread.
    """

    def wait() -> None:
        process.wait()
        on_end()

    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    if process.poll() is None:
        process.kill()
        try:
            process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("a program was killed and cannot end", extra={"program": process.args, "pid": process.pid})
            threading.Thread(target=wait, name=f"waits for {process.pid}", daemon=True).start()
            return
    on_end()


def _program(command: Sequence[str]) -> str:
    return command[command.index("--") + 1]


def run_undisturbed(arguments: Sequence[str], *, environment: Mapping[str, str], timeout: float) -> Ended | None:
    """Run a program that must not be killed, whatever becomes of the agent: one that holds a guest's device suspended.

    After `timeout` seconds it is asked to end (SIGTERM), which such a program puts off while it must not. Its end is
    waited for, which may take for ever where its storage hangs.

    Returns:
        How it ended, or None when it did not in time.

    Raises:
        FileNotFoundError: there is no such program.
    """
    process = _open(arguments, env={**os.environ, **environment}, start_new_session=True)
    try:
        printed, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate()
        return None
    return Ended(process.returncode, printed, said)
