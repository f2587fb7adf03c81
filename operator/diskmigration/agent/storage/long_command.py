"""Programs whose work grows with the disk: no time limit, but one that does nothing for long is given up.

One that is told to stop is stopped at once.
"""

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diskmigration.agent.credentials import Credentials
from diskmigration.agent.storage import command, failures, process_activity
from diskmigration.agent.storage.command import Ended
from diskmigration.agent.storage.process_activity import Counters, ProcessActivity
from diskmigration.api.errors import MigrationError, Reason

KeepOn = Callable[[], bool]

_CHECK_SECONDS = 0.2
_COUNT_SECONDS = 1.0
"""How often the kernel is asked what a program has done."""
_OOM_SCORE_ADJUSTMENT = 500
"""Where the node's memory runs out, the kernel ends a copy, which can be made again, before a VM or the agent."""


class StoppedError(Exception):
    """The work was stopped because its caller said so. Nothing has failed: look around, and decide again."""


def always() -> bool:
    """Let a program run to its end."""
    return True


def ignore(_: object = None) -> None:
    """Take no notice."""


@dataclass(frozen=True)
class Watch:
    """How a program is watched.

    `keep_on` is asked several times a second, and stops it with False. `on_output` gets what it prints as it comes, and
    `on_beat` is called when it was seen to do something. One that does nothing for `patience_seconds` is given up.
    """

    keep_on: KeepOn = always
    on_output: Callable[[str], None] = ignore
    on_beat: Callable[[], None] = ignore
    patience_seconds: float = process_activity.PATIENCE_SECONDS


class _InactiveError(Exception):
    """The program does nothing."""


def run(
    arguments: Sequence[str],
    *,
    doing: str,
    failure: Reason,
    watch: Watch,
    accepted: Sequence[int] = (0,),
    credentials: Credentials | None = None,
    descriptors: Sequence[int] = (),
    memory_bytes: int | None = None,
    on_end: Callable[[], None] = ignore,
) -> Ended:
    """Run a program to its end, however long that takes, and return how it ended.

    The program inherits `descriptors`, under the same numbers. `credentials` are as in `command.run`. It can have
    `memory_bytes` of address space at most.
    One that is stopped or given up is gone by then, or ends when its storage answers; it holds its locks until then.
    `on_end` is called once when it has ended, or could not be started.

    Raises:
        StoppedError: `watch.keep_on` said no.
        MigrationError: the program failed, or did nothing for too long.
        NoRoomError: it met a full file system.
    """
    try:
        process = subprocess.Popen(
            [*_bounded(memory_bytes), *command.started(arguments, credentials, is_root_elsewhere=True)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
        )
    except BaseException:
        on_end()
        raise
    try:
        ended = _follow(process, watch)
    except _InactiveError as error:
        raise MigrationError(
            failure,
            f"While {doing}, {arguments[0]} has read, written and computed nothing for {watch.patience_seconds:.0f} s, "
            "and was given up. Look at the storage on which it works.",
        ) from error
    finally:
        command.end(process, on_end)
    if ended.status not in accepted:
        answer = (ended.said or ended.printed).strip()
        raise failures.failure_of_program(answer, doing=doing, program=arguments[0], reason=failure)
    return ended


def _bounded(memory_bytes: int | None) -> list[str]:
    """Return what starts a program with these bounds, which stay with it whatever user it runs as.

    The score is only ever raised, which needs no capability.
    """
    own_score = int(_read("/proc/self/oom_score_adj") or 0)
    score = ["choom", "-n", str(_OOM_SCORE_ADJUSTMENT), "--"] if own_score < _OOM_SCORE_ADJUSTMENT else []
    return [*score, *(["prlimit", f"--as={memory_bytes}"] if memory_bytes is not None else [])]


def _follow(process: subprocess.Popen[bytes], watch: Watch) -> Ended:
    """Hand on what a program prints until it has ended.

    Raises:
        StoppedError, _InactiveError: it has not.
    """
    assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for
    assert process.stderr is not None  # noqa: S101 - as above
    printed, said = bytearray(), bytearray()
    activity = ProcessActivity(time.monotonic())
    counted_at = activity.at
    has_printed = False
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, printed)
        selector.register(process.stderr, selectors.EVENT_READ, said)
        while selector.get_map() or process.poll() is None:
            if not watch.keep_on():
                raise StoppedError
            if not selector.get_map():
                # To close its files can take as long as anything else.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_CHECK_SECONDS)
            for key, _ in selector.select(_CHECK_SECONDS) if selector.get_map() else ():
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.data is printed:
                    watch.on_output(chunk.decode(errors="replace"))
                key.data.extend(chunk)
                has_printed = has_printed or bool(chunk)
            now = time.monotonic()
            if now - counted_at >= _COUNT_SECONDS:
                counted_at = now
                newest = activity.advanced(now=now, counters=_counters(process.pid), has_printed=has_printed)
                has_printed = False
                if newest is not activity:
                    watch.on_beat()
                activity = newest
                if activity.has_stopped(now=now, patience=watch.patience_seconds):
                    raise _InactiveError
    return Ended(process.wait(), printed.decode(errors=command.NOT_TEXT), said.decode(errors=command.NOT_TEXT))


def _counters(pid: int) -> Counters:
    return process_activity.counters(_read(f"/proc/{pid}/io"), _read(f"/proc/{pid}/stat"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        # It has ended, or belongs to another user and must not be asked.
        return ""
