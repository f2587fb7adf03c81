"""What a testbed could leave behind: processes, and mounts in some namespace."""

import os
from pathlib import Path


def processes_naming(directory: Path) -> set[tuple[str, int]]:
    """Return name and number of all processes, in any namespace, whose command line or mounts name a directory."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "cmdline").read_text() + (entry / "mountinfo").read_text()
            name = (entry / "comm").read_text().strip()
        except OSError:
            # It ended while it was looked at.
            continue
        if str(directory) in told:
            found.add((name, int(entry.name)))
    return found
