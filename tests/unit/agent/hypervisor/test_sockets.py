"""Which sockets a URI of libvirt stands for."""

from pathlib import Path

import pytest

from diskmigration.agent.hypervisor.connection import sockets_of


@pytest.mark.parametrize(
    ("uri", "sockets"),
    [
        ("qemu:///system", ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"]),
        ("qemu+unix:///system", ["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"]),
        ("qemu+unix:///system?socket=/srv/dm-1/run/libvirt-sock", ["/srv/dm-1/run/libvirt-sock"]),
        ("qemu+unix:///system?mode=direct&socket=/a%20b", ["/a b"]),
    ],
)
def test_the_sockets_are_those_of_libvirts_client(uri: str, sockets: list[str]) -> None:
    assert sockets_of(uri) == tuple(map(Path, sockets))
