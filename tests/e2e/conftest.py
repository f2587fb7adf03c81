"""The one cluster that all end-to-end tests share: two nodes, each with its own libvirt."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import Cluster, running_cluster
from testbed.scratch import make_directory
from tests.e2e import installation, user

_TIMEOUT_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of all waits for the images: with an empty cache, they are built first."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_SECONDS))


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A cluster of the nodes node-a and node-b, both Ready and with the images of this checkout."""
    for directory in _temporary_directory():
        with running_cluster(directory / "cluster", nodes=("node-a", "node-b")) as running:
            yield running


@pytest.fixture(scope="package")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with the project installed and up, a namespace of users, and a storage domain of either type."""
    installation.apply(cluster)
    cluster.kubectl("create", "namespace", user.NAMESPACE)
    for node in cluster.nodes.values():
        for domain in (user.FILES, user.LOOPS):
            (node.storage / domain).mkdir()
    installation.wait_until_up(cluster)
    cluster.kubectl("apply", "--filename=-", stdin=user.storage_domains())
    cluster.kubectl("wait", "--for=jsonpath={.status.readyNodes}=2", "--timeout=60s", "storagedomains", "--all")
    return cluster


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory on a real disk for one test; removed at its end."""
    yield from _temporary_directory()


def _temporary_directory() -> Iterator[Path]:
    directory = make_directory("dm-")
    yield directory
    # Not ignore_errors: what cannot be removed is a leak, and the test's failure.
    shutil.rmtree(directory)
