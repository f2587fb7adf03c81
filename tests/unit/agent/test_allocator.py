"""However many threads the agent has, few of glibc's arenas hold their memory."""

import os
import subprocess
import sys

import pytest

_COUNT_ARENAS = """
import ctypes, sys, threading
from diskmigration.agent.allocator import use_few_arenas
if sys.argv[1] == "few":
    use_few_arenas()
ready, over = threading.Barrier(41), threading.Barrier(41)
def allocate():
    kept = bytearray(2000)
    ready.wait()
    over.wait()
for _ in range(40):
    threading.Thread(target=allocate).start()
ready.wait()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
over.wait()
"""


@pytest.mark.parametrize(("which", "is_few"), [("few", True), ("glibc's", False)])
def test_many_threads_share_few_arenas(which: str, is_few: bool) -> None:
    command = [sys.executable, "-c", _COUNT_ARENAS, which]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout
    assert (told.count("<heap nr=") <= 2) is is_few
