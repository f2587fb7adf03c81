"""kube-apiservers of any version, built from Kubernetes' own Go modules and kept in the cache."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from testbed.binaries import cache_directory, control_plane_binaries
from testbed.processes import TestbedError

_MODULE = "k8s.io/kubernetes"
_PROGRAM = f"{_MODULE}/cmd/kube-apiserver"
_RELEASE = re.compile(r"v(?P<minor>1\.\d+)\.(?P<patch>\d+)")
# A library of Kubernetes' own repository has this version there; released, v1.N.P of Kubernetes goes with its v0.N.P.
_UNRELEASED = "v0.0.0"


def newest_release(minor: str) -> str:
    """Return the newest release of a minor version, such as `1.34`, without a leading `v`.

    Raises:
        TestbedError: the Go module proxy could not be asked, or there is none.
    """
    listed = _go("list", "-m", "-versions", _MODULE).split()
    patches = [int(found["patch"]) for one in listed if (found := _RELEASE.fullmatch(one)) and found["minor"] == minor]
    if not patches:
        raise TestbedError(f"Kubernetes {minor} has no release: name another minor version, such as 1.34.")
    return f"{minor}.{max(patches)}"


def assets_of(version: str) -> Path:
    """Return a directory for `KUBEBUILDER_ASSETS` with that version's kube-apiserver, built where it is missing.

    etcd and kubectl are those of all other tests.

    Raises:
        TestbedError: a build failed; the message has Go's output.
    """
    directory = cache_directory() / "versions" / version
    directory.mkdir(parents=True, exist_ok=True)
    common = control_plane_binaries()
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for program in (common.etcd, common.kubectl):
            link = directory / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
        built = directory / "kube-apiserver"
        if not built.exists():
            # Renamed into its place when whole: an interrupted build leaves nothing that looks done.
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                _build(version, Path(scratch)).rename(built)
    return directory


def _build(version: str, directory: Path) -> Path:
    print(f"Building kube-apiserver {version} (once; some minutes)", file=sys.stderr, flush=True)
    downloaded = json.loads(_go("mod", "download", "-json", f"{_MODULE}@v{version}"))
    theirs = json.loads(_go("mod", "edit", "-json", downloaded["GoMod"]))
    released = "v0." + version.partition(".")[2]
    # The language's version decides the toolchain and what the runtime does by default: theirs is taken.
    edits = [f"-module=testbed/versions/{version}", f"-go={theirs['Go']}", f"-require={_MODULE}@v{version}"]
    edits += [f"-godebug={each['Key']}={each['Value']}" for each in theirs.get("Godebug") or ()]
    edits += [
        f"-replace={each['Path']}={each['Path']}@{released}"
        for each in theirs["Require"]
        if each["Version"] == _UNRELEASED
    ]
    (directory / "go.mod").touch()
    _go("mod", "edit", *edits, directory=directory)
    major, minor, _ = version.split(".")
    stamps = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamps.items())
    built = directory / "kube-apiserver"
    _go(
        *("build", "-mod=mod", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", str(built), _PROGRAM),
        directory=directory,
        environment={**os.environ, "CGO_ENABLED": "0"},
    )
    return built


def _go(*arguments: str, directory: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    if shutil.which("go") is None:
        raise TestbedError("Go is needed to build other versions of Kubernetes: install it.")
    completed = subprocess.run(
        ["go", *arguments],
        # Not the checkout: what it has there must not decide.
        cwd=directory or Path(tempfile.gettempdir()),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode != 0:
        raise TestbedError(f"go {' '.join(arguments)} failed:\n{completed.stderr}")
    return completed.stdout
