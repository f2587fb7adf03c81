"""`python -m testbed.nightly [LANE …]`: run what takes too long for each change, one lane after the other.

A lane that fails does not keep the next ones from running. At the end a table says what ran, for how long, and what
failed; the output of each lane is kept in dist/nightly.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_RESULTS = Path(__file__).resolve().parents[1] / "dist" / "nightly"
_PYTEST = ("-m", "pytest", "--quiet")


@dataclass(frozen=True)
class Lane:
    """One run of Python: its arguments, and what it finds in the environment beside what is there."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def lanes(workers: int) -> dict[str, Lane]:
    """Return all lanes by name, in the order in which they run."""
    parallel = f"--numprocesses={workers}"
    return {
        "tests": Lane((*_PYTEST, parallel, "-m", "not lvm and not faults"), {"DISKMIGRATION_TEST_EXAMPLES": "100"}),
        "host-as-root": Lane((*_PYTEST, parallel, "tests/integration"), {"DISKMIGRATION_TEST_HOST": "root"}),
        "faults": Lane((*_PYTEST, parallel, "-m", "faults", "tests/integration/faults")),
        "versions": Lane(("-m", "testbed.versions")),
        "lvm": Lane(("-m", "testbed.lvm_lane", "-m", "lvm")),
        "soak": Lane((*_PYTEST, "tests/integration/soak"), {"DISKMIGRATION_SOAK_SECONDS": "3600"}),
    }


def main() -> None:
    """Run the lanes that the command line names, or all, and exit with 1 if one failed."""
    known = lanes(int(os.environ.get("WORKERS", "4")))
    parser = argparse.ArgumentParser(prog="python -m testbed.nightly", description=__doc__)
    parser.add_argument("lanes", metavar="LANE", nargs="*", help=f"all where none is named: {', '.join(known)}")
    names = parser.parse_args().lanes or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no lane {unknown[0]!r}; the lanes are {', '.join(known)}")
    _RESULTS.mkdir(parents=True, exist_ok=True)
    rows = ["| lane | outcome | minutes | last line |", "| --- | --- | --- | --- |"]
    failed = False
    for name in names:
        print(f"Running the lane {name}", flush=True)
        began = time.monotonic()
        log = _RESULTS / f"{name}.log"
        status = _run(known[name], log)
        failed = failed or status != 0
        outcome = "passed" if status == 0 else f"FAILED ({status})"
        rows.append(f"| {name} | {outcome} | {(time.monotonic() - began) / 60:.1f} | {_last_line(log)} |")
    print("\n".join(rows))
    print(f"The lanes' output is in {_RESULTS}.")
    if failed:
        sys.exit(1)


def _run(lane: Lane, log: Path) -> int:
    with log.open("wb") as output:
        return subprocess.run(
            [sys.executable, *lane.arguments],
            env={**os.environ, **lane.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


if __name__ == "__main__":
    main()
