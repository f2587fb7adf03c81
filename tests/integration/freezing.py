"""Programs that are there and do not answer: worse than those that are gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from testbed.control_plane import ControlPlane


@contextmanager
def frozen_api_server(control_plane: ControlPlane) -> Iterator[None]:
    """SIGSTOPs the API server for the block: connections are taken, and nothing is answered."""
    number = _find("kube-apiserver", f"--secure-port={urlsplit(control_plane.url).port}")
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


def _find(program: str, argument: str) -> int:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[0].endswith(program) and argument in words:
            return int(entry.parent.name)
    raise AssertionError(f"no {program} runs with {argument}")
