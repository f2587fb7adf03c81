"""The programs of Kubernetes, and kstatus: built once from the Go modules beside this file, outside the checkout."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.processes import TestbedError

KUBERNETES_VERSION = "1.34.4"

_HERE = Path(__file__).resolve().parent
_KUBERNETES_MODULE = _HERE / "kubernetes"
_ETCD_MODULE = _HERE / "etcd"
_KSTATUS_MODULE = _HERE / "kstatus"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")
# Without these a client sees version v0.0.0.
_VERSION_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", f"v{KUBERNETES_VERSION}"), ("gitMajor", _MAJOR), ("gitMinor", _MINOR))
)
_CONTROL_PLANE_PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
_Source = tuple[Path, str]
"""A Go module's directory, and the package in it that is the program."""
_CLUSTER_PROGRAMS = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")


@dataclass(frozen=True)
class Binaries:
    """Where the control plane's programs are."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


@dataclass(frozen=True)
class ClusterBinaries:
    """Where the programs are that make a control plane a whole cluster."""

    kube_controller_manager: Path
    kube_scheduler: Path
    kube_proxy: Path
    kubelet: Path


def cache_directory() -> Path:
    """Return the directory of everything the project keeps outside the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "diskmigration"


def control_plane_binaries() -> Binaries:
    """Return the programs of `KUBEBUILDER_ASSETS` where that is set, else those built here; builds what is missing.

    Raises:
        TestbedError: a program is missing from `KUBEBUILDER_ASSETS`, or its build failed.
    """
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        missing = [name for name in _CONTROL_PLANE_PROGRAMS if not os.access(Path(assets) / name, os.X_OK)]
        if missing:
            raise TestbedError(
                f"KUBEBUILDER_ASSETS is {assets}, which lacks {', '.join(missing)}: add them there, or unset it to "
                "have them built."
            )
        directory = Path(assets)
    else:
        directory = _built(_CONTROL_PLANE_PROGRAMS)
    return Binaries(etcd=directory / "etcd", kube_apiserver=directory / "kube-apiserver", kubectl=directory / "kubectl")


def cluster_binaries() -> ClusterBinaries:
    """Return the programs of `KUBEBUILDER_ASSETS` where it has them all, else those built here; builds what is missing.

    What is commonly found there has none of them. Those built here are of `KUBERNETES_VERSION`, and no kubelet may be
    newer than its apiserver.

    Raises:
        TestbedError: a build failed.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and all(os.access(Path(assets) / name, os.X_OK) for name in _CLUSTER_PROGRAMS):
        directory = Path(assets)
    else:
        directory = _built(_CLUSTER_PROGRAMS)
    return ClusterBinaries(
        kube_controller_manager=directory / "kube-controller-manager",
        kube_scheduler=directory / "kube-scheduler",
        kube_proxy=directory / "kube-proxy",
        kubelet=directory / "kubelet",
    )


def kstatus_binary() -> Path:
    """Return the program that says of objects what kstatus computes of them; builds it where it is missing.

    Raises:
        TestbedError: its build failed.
    """
    digest = _digest(_KSTATUS_MODULE / "go.sum", _KSTATUS_MODULE / "main.go")
    directory = cache_directory() / f"kstatus-{digest}"
    _build_missing({"kstatus": (_KSTATUS_MODULE, ".")}, directory)
    return directory / "kstatus"


def _built(names: tuple[str, ...]) -> Path:
    digest = _digest(*(module / "go.sum" for module in (_KUBERNETES_MODULE, _ETCD_MODULE)))
    directory = cache_directory() / f"kubernetes-{KUBERNETES_VERSION}-{digest}"
    _build_missing({name: _source_of(name) for name in names}, directory)
    return directory


def _source_of(name: str) -> _Source:
    if name == "etcd":
        return _ETCD_MODULE, "go.etcd.io/etcd/server/v3"
    return _KUBERNETES_MODULE, f"k8s.io/kubernetes/cmd/{name}"


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _build_missing(sources: Mapping[str, _Source], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, source in sources.items():
            if not (directory / name).exists():
                _build(name, source, directory)


def _build(name: str, source: _Source, directory: Path) -> None:
    module, package = source
    if shutil.which("go") is None:
        alternative = "" if name == "kstatus" else ", or set KUBEBUILDER_ASSETS"
        raise TestbedError(f"Go is needed to build {name}: install it{alternative}.")
    print(f"Building {name} (once; a few minutes when Go's own cache is cold)", file=sys.stderr, flush=True)
    # Renamed into its place when whole: an interrupted build leaves nothing that looks done.
    with tempfile.TemporaryDirectory(dir=directory) as unfinished:
        built = Path(unfinished) / name
        command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags", f"-s -w {_VERSION_FLAGS}"]
        completed = subprocess.run(
            [*command, "-o", str(built), package],
            cwd=module,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode != 0:
            raise TestbedError(f"go build {package} failed:\n{completed.stderr}")
        built.rename(directory / name)
