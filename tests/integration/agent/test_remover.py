"""An image that cannot be read keeps what it may stand on, but not one that somebody is just making."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.migration.removal import Remover
from diskmigration.agent.migration.unneeded_volumes import Standing, UnneededVolume
from diskmigration.agent.other_hosts import OtherHosts
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.api.names import API_VERSION
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.cluster import client
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost
from testbed.programs import SYSTEM_NAMESPACE

NAME = "files"


@pytest.fixture
def home(scratch: Path) -> OpenDomain:
    domains = StorageDomains({})
    document = {"metadata": {"name": NAME}, "spec": {"file": {"path": str(scratch)}}}
    domains.put(StorageDomain.from_wire(document))
    return domains.get(NAME)


@pytest.fixture
def known(home: OpenDomain) -> StorageDomains:
    domains = StorageDomains({})
    domains.put(home.domain)
    return domains


@pytest.fixture
def other_host(control_plane: ControlPlane) -> Iterator[None]:
    """A node that has, or had, an agent."""
    document = {"apiVersion": API_VERSION, "kind": "LibvirtHost", "metadata": {"name": "node-b"}}
    control_plane.kubectl("apply", "--filename=-", stdin=json.dumps(document))
    yield
    control_plane.kubectl("delete", "libvirthost", "node-b")


@pytest.fixture
def remover(libvirt_host: LibvirtHost, control_plane: ControlPlane, known: StorageDomains) -> Remover:
    hosts = OtherHosts(client.connect(control_plane.admin_kubeconfig), node_name="node-a", namespace=SYSTEM_NAMESPACE)
    return Remover(Connection(libvirt_host.uri), known, hosts)


def make(path: Path, *backing: str | Path) -> Path:
    options = [word for name in backing for word in ("-u", "-F", "qcow2", "-b", name)]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
    return path


def unneeded(path: Path) -> UnneededVolume:
    return UnneededVolume(path.name, str(path), is_qcow2=True, standing=Standing.LOWER)


@pytest.mark.parametrize("is_made", [True, False])
def test_a_chain_that_is_just_made_or_removed_keeps_nothing(
    home: OpenDomain, remover: Remover, scratch: Path, is_made: bool
) -> None:
    volume, below = make(scratch / "volume.qcow2"), scratch / "below.qcow2"
    top = make(scratch / "top.qcow2", below)
    asked = []

    def wait(seconds: float) -> None:
        asked.append(seconds)
        if is_made:
            make(below)
        else:
            top.unlink()

    assert remover.remove(home, [unneeded(volume)], wait=wait) == ()
    assert len(asked) == 1
    assert not volume.exists()


def test_one_that_stays_unreadable_keeps_what_it_may_stand_on(
    home: OpenDomain, remover: Remover, scratch: Path
) -> None:
    volume = make(scratch / "volume.qcow2")
    make(scratch / "top.qcow2", scratch / "below.qcow2")
    [kept] = remover.remove(home, [unneeded(volume)])
    assert kept.name == volume.name
    assert "below.qcow2 cannot be seen" in kept.reason
    assert volume.exists()


@pytest.mark.usefixtures("other_host")
@pytest.mark.parametrize("is_replaced", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_of_a_deleted_domain_a_lower_layer_stays_where_there_are_other_nodes(
    home: OpenDomain, remover: Remover, known: StorageDomains, scratch: Path, is_replaced: bool
) -> None:
    lower, top = make(scratch / "lower.qcow2"), make(scratch / "top.qcow2")
    if is_replaced:
        spec = {"file": {"path": str(scratch / "elsewhere")}}
        known.put(StorageDomain.from_wire({"metadata": {"name": NAME}, "spec": spec}))
    else:
        known.remove(NAME, home.domain.metadata.uid)
    assert remover.remove(home, [replace(unneeded(top), standing=Standing.TOP)]) == ()
    [kept] = remover.remove(home, [unneeded(lower)])
    assert kept.name == lower.name
    assert f"the StorageDomain {NAME} was deleted" in kept.reason
    assert lower.exists()
    assert not top.exists()


@pytest.mark.usefixtures("other_host")
def test_of_a_domain_that_is_there_what_no_node_needs_goes(home: OpenDomain, remover: Remover, scratch: Path) -> None:
    lower = make(scratch / "lower.qcow2")
    assert remover.remove(home, [unneeded(lower)]) == ()
    assert not lower.exists()
