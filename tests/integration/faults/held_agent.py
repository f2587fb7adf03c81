"""The agent, which waits at the failpoints that a test has armed: `python -m tests.integration.faults.held_agent`.

So does a thin volume of a loop device in the midst of its extension, as one on a slow array would.
"""

import os
import time
from pathlib import Path

from diskmigration.agent.main import main
from diskmigration.agent.migration import failpoints
from diskmigration.agent.storage import directory as storage_directory

DIRECTORY = "DISKMIGRATION_TEST_HOLDS"
EXTENSION = "Extension.midway"
_POLL_SECONDS = 0.01


def _hold_at(name: str) -> None:
    directory = Path(os.environ[DIRECTORY])
    reached = directory / f"{name}.reached"
    try:
        # One alone is held by what was armed once.
        (directory / f"{name}.armed").rename(reached)
    except FileNotFoundError:
        return
    while reached.exists():
        time.sleep(_POLL_SECONDS)


def _grow_file(path: Path, size_bytes: int) -> None:
    _hold_at(EXTENSION)
    _grow_at_once(path, size_bytes)


if __name__ == "__main__":
    failpoints.enable(_hold_at)
    _grow_at_once, storage_directory.grow_file = storage_directory.grow_file, _grow_file
    main()
