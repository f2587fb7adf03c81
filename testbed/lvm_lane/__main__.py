"""`python -m testbed.lvm_lane [OPTIONS OF PYTEST]`: run the tests marked `lvm` in the VM, and keep their results."""

import argparse
import compileall
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from testbed.control_plane import running_control_plane
from testbed.lvm_lane.access import serving_kubectl, write_access
from testbed.lvm_lane.inside import ACCESS, ARGUMENTS, NODE, PROJECT, SECONDS
from testbed.lvm_lane.machine import HOST_ADDRESS, Ending, run_machine
from testbed.lvm_lane.system import lane_system, make_disk
from testbed.processes import TestbedError
from testbed.programs import SYSTEM_NAMESPACE, running_operator

_REPOSITORY = Path(__file__).resolve().parents[2]
_CARRIED = ("operator", "testbed", "tests", "pyproject.toml")
_PROJECT_MEBIBYTES = 256
# Short, as the acceptance of a migration that lacks something is waited for.
_GRACE_SECONDS = 2
# For the VM's start and end.
_OTHER_SECONDS = 300
_SHOWN = "lvs.txt"
_TESTS = "tests/lvm"


def main() -> None:
    """Read the command line, run the lane, and exit with pytest's status."""
    parser = argparse.ArgumentParser(prog="python -m testbed.lvm_lane", description=__doc__)
    parser.add_argument("--results", type=Path, default=_REPOSITORY / "dist" / "lvm-lane", help="%(default)s")
    parser.add_argument("--timeout-seconds", type=float, default=3000, help="for the tests; %(default)s")
    arguments, for_pytest = parser.parse_known_args()
    # So that what was made is removed: Python's own answer to it is to end at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("The LVM lane was told to end."))
    try:
        ending = _run(arguments.results.resolve(), for_pytest, timeout_seconds=arguments.timeout_seconds)
    except TestbedError as error:
        sys.exit(str(error))
    report = arguments.results / _SHOWN
    if report.exists():
        print(report.read_text())
    print(f"The VM ran for {ending.seconds:.0f} s; its results are in {arguments.results}.")
    sys.exit(ending.status)


def _run(results: Path, for_pytest: list[str], *, timeout_seconds: float) -> Ending:
    system = lane_system()
    if results.exists():
        shutil.rmtree(results)
    results.mkdir(parents=True)
    started = time.monotonic()
    with ExitStack() as running:
        # On a disk: the VM's own are larger than what a machine has of memory to spare.
        directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dm-lvm-", dir="/var/tmp")))
        control_plane = running.enter_context(running_control_plane(directory / "control-plane"))
        control_plane.install_manifests()
        control_plane.create_node(NODE, {})
        running.enter_context(running_operator(control_plane, results, f"--acceptance-grace-seconds={_GRACE_SECONDS}"))
        project = directory / "project"
        _copy_project(project)
        if not any(argument.startswith(_TESTS) for argument in for_pytest):
            for_pytest = [*for_pytest, _TESTS]
        (project / ARGUMENTS).write_text("".join(f"{argument}\n" for argument in for_pytest))
        (project / SECONDS).write_text(f"{timeout_seconds:.0f}\n")
        agent = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
        kubectl = running.enter_context(serving_kubectl(control_plane))
        write_access(control_plane, agent, kubectl, project / ACCESS, address=HOST_ADDRESS, seen_at=PROJECT / ACCESS)
        make_disk(directory / "project.img", project, mebibytes=_PROJECT_MEBIBYTES)
        print(f"The control plane is up, and the VM starts, after {time.monotonic() - started:.0f} s", flush=True)
        return run_machine(
            system, directory / "project.img", directory, results, timeout_seconds=timeout_seconds + _OTHER_SECONDS
        )


def _copy_project(destination: Path) -> None:
    destination.mkdir()
    for name in _CARRIED:
        source = _REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, destination / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, destination / name)
    # Here, as the VM's processor takes ten times as long; a Python of another version there compiles them itself.
    compileall.compile_dir(
        destination,
        quiet=2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        stripdir=str(destination),
        prependdir=str(PROJECT),
    )


if __name__ == "__main__":
    main()
