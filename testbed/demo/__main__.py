"""`python -m testbed.demo`: ends with PASS or FAIL, and with nothing left behind. Run it by `make demo`."""

import argparse
import os
import subprocess
import sys
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path

from testbed import processes
from testbed.demo import clean_room
from testbed.demo.endings import Endings, InterruptedBySignal
from testbed.demo.screen import Screen
from testbed.demo.stage import logs
from testbed.demo.story import QUICK, WHOLE, Scale, play
from testbed.processes import TestbedError

_FAILED = 1
_LINES_OF_A_LOG = 10
_SIGNAL_STATUS_BASE = 128  # as a shell has it


def main() -> None:
    """Read the command line, play, and clean up."""
    parser = argparse.ArgumentParser(prog="python -m testbed.demo", description=sys.modules["testbed.demo"].__doc__)
    parser.add_argument("--quick", action="store_true", help="with less data and shorter waits")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("The demo runs libvirt and attaches loop devices: run it as root.")
    endings = Endings()
    processes.adopt_orphans()
    screen = Screen()
    try:
        directory = clean_room.make_directory()
    except TestbedError as error:
        sys.exit(str(error))
    passed = False
    try:
        passed = _play(endings, directory, screen, QUICK if options.quick else WHOLE)
    finally:
        clean_room.clear(directory)
    left = clean_room.traces(directory)
    # Whoever read may have gone, which changes nothing about the outcome.
    with suppress(OSError):
        _tell_end(screen, endings, left, passed=passed)
    if endings.received is not None:
        sys.exit(_SIGNAL_STATUS_BASE + endings.received)
    sys.exit(0 if passed and not left else _FAILED)


def _play(endings: Endings, directory: Path, screen: Screen, scale: Scale) -> bool:
    try:
        with ExitStack() as running:
            try:
                with endings.raised():
                    return play(running, directory, screen, scale)
            except InterruptedBySignal:
                raise
            except Exception as error:  # noqa: BLE001 - told with the logs, which are about to go
                if endings.received is None:
                    _tell_failure(screen, error, directory)
    except InterruptedBySignal:
        pass
    except (TestbedError, OSError, subprocess.SubprocessError) as error:
        # Raised while things were being stopped.
        if endings.received is None:
            with suppress(OSError):
                screen.say(f"While stopping: {error}")
    return False


def _tell_failure(screen: Screen, error: Exception, directory: Path) -> None:
    with suppress(OSError):
        for log in logs(directory):
            screen.gap()
            screen.say(f"The end of {log}:")
            lines = log.read_text(errors="replace").splitlines()
            screen.show("\n".join(lines[-_LINES_OF_A_LOG:]))
        screen.gap()
        told = str(error) if isinstance(error, TestbedError) else "".join(traceback.format_exception(error))
        screen.say(f"Failed at: {screen.part}. {told}")


def _tell_end(screen: Screen, endings: Endings, left: list[str], *, passed: bool) -> None:
    if left:
        screen.say(f"Left behind: {', '.join(left)}.")
    else:
        screen.say("Nothing is left behind: no process, mount, loop device or file.")
    if endings.received is not None:
        screen.say(f"Ended by {endings.received.name}.")
    else:
        screen.gap()
        print("PASS" if passed and not left else "FAIL", flush=True)


if __name__ == "__main__":
    main()
