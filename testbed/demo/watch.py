"""`kubectl get -w`, shown line by line as it comes."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import processes
from testbed.control_plane import ControlPlane
from testbed.demo.manifests import NAMESPACE
from testbed.demo.screen import Screen

COMMAND = ("get", "diskmigrations", "-n", NAMESPACE, "-w")
_POLL_SECONDS = 0.02
_LAST_LINE_TIMEOUT_SECONDS = 10


class Watch:
    """A running watch. Made by `shown_watch`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, screen: Screen) -> None:
        self._process = process
        self._output = output
        self._screen = screen
        self._shown: list[str] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def stop(self) -> None:
        """Show what is there, and end."""
        processes.stop(self._process)
        self._ending.set()
        self._thread.join()

    def wait_for(self, *words: str) -> None:
        """Wait until a line with all these words was shown.

        Raises:
            TestbedError: none came in time.
        """
        processes.wait_for(
            lambda: any(set(words) <= set(line.split()) for line in tuple(self._shown)),
            what=f"Waiting for kubectl to show {' '.join(words)}",
            process=self._process,
            log=self._output,
            timeout_seconds=_LAST_LINE_TIMEOUT_SECONDS,
        )

    def _follow(self) -> None:
        unfinished = ""
        with self._output.open() as output:
            while True:
                # Asked before reading, so that what was there when it was set is read.
                is_ending = self._ending.is_set()
                *lines, unfinished = (unfinished + output.read()).split("\n")
                for line in lines:
                    try:
                        self._screen.show(line)
                    except OSError:
                        # Nobody reads any more, which the main thread will find out too.
                        return
                    self._shown.append(line)
                if is_ending:
                    return
                time.sleep(_POLL_SECONDS)


@contextmanager
def shown_watch(control_plane: ControlPlane, directory: Path, screen: Screen) -> Iterator[Watch]:
    """Show `kubectl get diskmigrations -w` until the end of the block."""
    output = directory / f"watch-{time.monotonic_ns()}.log"
    output.touch()
    process = processes.start(
        [control_plane.kubectl_path, *COMMAND], log=output, environment=control_plane.environment()
    )
    watch = Watch(process, output, screen)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
