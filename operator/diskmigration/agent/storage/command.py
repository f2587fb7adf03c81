"""The one place that starts a program. Arguments are a list, never a shell; no name from a user starts with a dash."""

import os
import selectors
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage import failures
from diskmigration.api.errors import MigrationError, Reason

TIMEOUT_SECONDS = 120.0
_CHECK_SECONDS = 0.2
# A program repeats the names that it met, and those may hold any byte.
_NOT_TEXT = "backslashreplace"

# A copy must not outlive the agent that started it: the next agent would start a second one onto the same volume.
_DIE_WITH_PARENT = ("--pdeathsig", "KILL", "--")
# What root's files on other file systems take; a server that squashes root does not ask for capabilities.
_READS_AND_WRITES_ALL = "-all,+dac_override,+dac_read_search"


def _started(arguments: Sequence[str], credentials: Credentials | None, *, is_root_elsewhere: bool) -> list[str]:
    """Return the whole command line.

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

    With an `credentials` it opens files as that user where the file system asks for one, and as root does elsewhere.

    Raises:
        MigrationError: it failed or took longer than `timeout` seconds; the message holds what it answered.
        NoRoomError: it met a full file system.
    """
    command = _started(arguments, credentials, is_root_elsewhere=True)
    return _done(command, doing=doing, failure=failure, timeout=timeout, accepted=(0,)).stdout


def status(
    arguments: Sequence[str],
    *,
    doing: str,
    accepted: Sequence[int],
    timeout: float,
    credentials: Credentials | None = None,
    is_root_elsewhere: bool = False,
) -> int:
    """Run a program whose exit status is its answer.

    With an `credentials` it runs as that user and nothing more, or as in `run` where it `is_root_elsewhere`.

    Raises:
        MigrationError: StorageFailed, for any other status, or when it took longer than `timeout` seconds.
    """
    command = _started(arguments, credentials, is_root_elsewhere=is_root_elsewhere)
    done = _done(command, doing=doing, failure=Reason.STORAGE_FAILED, timeout=timeout, accepted=accepted)
    return done.returncode


def _done(
    command: Sequence[str], *, doing: str, failure: Reason, timeout: float, accepted: Sequence[int]
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors=_NOT_TEXT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MigrationError(
            failure, f"While {doing}, {_program(command)} did not answer within {timeout:.0f} s."
        ) from error
    if done.returncode not in accepted:
        answer = (done.stderr or done.stdout).strip()
        raise _failed(failure, doing=doing, program=_program(command), answer=answer)
    return done


def _program(command: Sequence[str]) -> str:
    return command[command.index("--") + 1]


def _failed(reason: Reason, *, doing: str, program: str, answer: str) -> MigrationError:
    return failures.failure_of_program(answer, doing=doing, program=program, reason=reason)


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, what it printed, and what it said beside that."""

    status: int
    printed: str
    said: str


def run_undisturbed(
    arguments: Sequence[str], *, environment: Mapping[str, str], timeout: float, grace: float = 10.0
) -> Ended | None:
    """Runs a program that must not be killed, whatever becomes of the agent: one that holds a guest's device suspended.

    After `timeout` seconds it is asked to end (SIGTERM), which such a program puts off while it must not; after `grace`
    more it is left to itself.

    Returns:
        How it ended, or None when it did not in time.

    Raises:
        FileNotFoundError: there is no such program.
    """
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors=_NOT_TEXT,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        printed, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.communicate(timeout=grace)
        except subprocess.TimeoutExpired:
            threading.Thread(target=process.communicate, name=f"waits for {arguments[0]}", daemon=True).start()
        return None
    return Ended(process.returncode, printed, said)


def run_with_progress(
    arguments: Sequence[str],
    *,
    doing: str,
    failure: Reason,
    on_output: Callable[[str], None],
    keep_on: Callable[[], bool],
    credentials: Credentials | None = None,
    descriptors: Sequence[int] = (),
) -> bool:
    """Run a long program, handing on what it prints as it comes, until it ends or `keep_on` says no.

    The program inherits `descriptors`, under the same numbers.

    An `credentials` is as in `run`.

    Returns:
        True when the program ended well; False when it was stopped because of `keep_on`, and is gone by then.

    Raises:
        MigrationError: the program failed.
        NoRoomError: it met a full file system.
    """
    process = subprocess.Popen(
        _started(arguments, credentials, is_root_elsewhere=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
    )
    assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for above
    assert process.stderr is not None  # noqa: S101 - as above
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while keep_on():
                if not selector.select(_CHECK_SECONDS):
                    continue
                chunk = os.read(process.stdout.fileno(), 4096)
                if not chunk:
                    break
                on_output(chunk.decode(errors="replace"))
            else:
                return False
        if process.wait() != 0:
            answer = process.stderr.read().decode(errors=_NOT_TEXT).strip()
            raise _failed(failure, doing=doing, program=arguments[0], answer=answer)
        return True
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
