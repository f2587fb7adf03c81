"""`python -m testbed.versions [MINOR …]`: run the API's tests against other versions of Kubernetes."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from testbed import processes
from testbed.processes import TestbedError
from testbed.versions.apiserver import assets_of, newest_release

# The oldest and the newest that the project promises to run on.
_DEFAULT = ("1.32", "1.37")
_TESTS = "tests/integration/api"


def main() -> None:
    """Build each version's kube-apiserver, run the tests against it, and print a table of what came of them."""
    parser = argparse.ArgumentParser(prog="python -m testbed.versions", description=sys.modules[__name__].__doc__)
    parser.add_argument("minors", metavar="MINOR", nargs="*", default=_DEFAULT, help="default: %(default)s")
    rows = ["| Kubernetes | tests passed | failed | skipped | seconds |", "| --- | --- | --- | --- | --- |"]
    passed = True
    try:
        for minor in parser.parse_args().minors:
            version = newest_release(minor)
            row, all_passed = _try(version, assets_of(version))
            rows.append(row)
            passed = passed and all_passed
    except TestbedError as error:
        sys.exit(str(error))
    print("\n".join(rows))
    if not passed:
        sys.exit(1)


def _try(version: str, assets: Path) -> tuple[str, bool]:
    told = processes.run([assets / "kube-apiserver", "--version"]).strip()
    if told != f"Kubernetes v{version}":
        raise TestbedError(f"{assets}/kube-apiserver says it is {told}: remove {assets} to have it built anew.")
    print(f"Running {_TESTS} against Kubernetes {version}", file=sys.stderr, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        status = subprocess.run(
            [sys.executable, "-m", "pytest", "--quiet", f"--junit-xml={report}", _TESTS],
            env={**os.environ, "KUBEBUILDER_ASSETS": str(assets)},
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
        if not report.exists():
            raise TestbedError(f"pytest ended with status {status} before it ran a test against Kubernetes {version}.")
        suite = ET.parse(report).getroot().find("testsuite")  # noqa: S314 - written by pytest just now
    if suite is None:
        raise TestbedError(f"pytest's report of Kubernetes {version} has no test suite.")
    count, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    seconds = time.monotonic() - began
    return f"| {version} | {count - failed - skipped} | {failed} | {skipped} | {seconds:.0f} |", status == 0


if __name__ == "__main__":
    main()
