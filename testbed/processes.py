"""Child processes that end with the testbed, however it ends."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A parent-death signal fires when the starting thread ends, not the process: one thread starts all, and outlives them.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="process-starter")
_LOG_TAIL_BYTES = 4000
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class TestbedError(Exception):
    """A part of the testbed did not start, stop or answer; the message says which and what it printed."""

    __test__ = False


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills with this one (PR_SET_PDEATHSIG), printing to the end of `log`.

    It is in a session of its own, so that Ctrl-C reaches this process alone, which then stops its children in order.
    """

    def spawn() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    return _STARTER.submit(spawn).result()


def stop(process: subprocess.Popen[bytes], *, timeout_seconds: float = 30) -> None:
    """Ask a process to end, wait for its end, and kill it if it takes longer than `timeout_seconds`."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends (PR_SET_CHILD_SUBREAPER, prctl(2)).

    Raises:
        OSError: the kernel refused.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def kill_descendants() -> None:
    """Kill all children of this process and wait for their ends, until there is none.

    With `adopt_orphans` no descendant is left. For a process that was interrupted, and cannot know all it had started.
    """
    # One that is being started becomes a child before it is looked for.
    _STARTER.submit(_do_nothing).result()
    while children := _children():
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _do_nothing() -> None:
    pass


def _children() -> list[int]:
    own = os.getpid()
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; the parent is the second field after it.
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == own:
            found.append(int(status.parent.name))
    return found


def wait_for(
    condition: Callable[[], bool],
    *,
    what: str,
    process: subprocess.Popen[bytes],
    log: Path,
    timeout_seconds: float = 60,
) -> None:
    """Wait until `condition` holds.

    Raises:
        TestbedError: `process` ended, or the time is over. The message has the end of `log`.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if process.poll() is not None:
            raise TestbedError(f"{what}: the process ended with status {process.returncode}.\n{tail(log)}")
        if time.monotonic() > deadline:
            raise TestbedError(f"{what}: not so after {timeout_seconds:.0f} s.\n{tail(log)}")
        time.sleep(0.05)


def tail(log: Path) -> str:
    """Return the end of a log file, or a sentence in its place when there is none."""
    if not log.exists():
        return f"There is no {log}."
    return f"The end of {log}:\n{log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors='replace')}"


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 120,
) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        TestbedError: the command failed; the message has the command and its stderr.
    """
    completed = subprocess.run(
        command,
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout_seconds,
        check=False,
    )
    if completed.returncode != 0:
        shown = " ".join(str(word) for word in command)
        raise TestbedError(f"{shown}: exit status {completed.returncode}.\n{completed.stderr}{completed.stdout}")
    return completed.stdout
