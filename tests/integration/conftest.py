"""The real parts the integration tests run against: one control plane and one libvirt host for the whole session."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import exports
from testbed import scratch as scratch_directories
from testbed.control_plane import ControlPlane, Site, running_control_plane
from testbed.libvirt_host import LibvirtHost, running_libvirt
from tests.integration.audit import Audit, made_audit
from tests.integration.hosts import QEMU_SETTINGS


@pytest.fixture(scope="session")
def session_directory() -> Iterator[Path]:
    """A directory on a real disk for the session; removed at the end."""
    yield from _temporary_directory()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory on a real disk for one test's volumes; removed at its end."""
    yield from _temporary_directory()


@pytest.fixture(scope="session")
def audit(session_directory: Path) -> Audit:
    """What operators and agents have asked of the API server."""
    return made_audit(session_directory / "audit")


@pytest.fixture(scope="session")
def control_plane(session_directory: Path, audit: Audit) -> Iterator[ControlPlane]:
    """A control plane with the project's CRDs, accounts and roles, and with no Node."""
    site = Site(api_server_options=audit.options)
    with running_control_plane(session_directory / "control-plane", site) as running:
        running.install_manifests()
        yield running


@pytest.fixture(scope="session")
def exports_directory(session_directory: Path) -> Iterator[Path]:
    """A directory for mounts that the libvirt host is to see."""
    directory = session_directory / "exports"
    with exports.shared_directory(directory):
        yield directory


@pytest.fixture(scope="session")
def libvirt_host(session_directory: Path, exports_directory: Path) -> Iterator[LibvirtHost]:
    """A libvirt host with no domain."""
    with running_libvirt(session_directory / "libvirt", qemu=QEMU_SETTINGS) as running:
        yield running


def _temporary_directory() -> Iterator[Path]:
    directory = scratch_directories.make_directory("dm-")
    yield directory
    # Not ignore_errors: what cannot be removed is a leak, and the test's failure.
    shutil.rmtree(directory)
