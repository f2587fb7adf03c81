"""A control plane that several folders of tests use, one after another, as if it were each one's own."""

from collections.abc import Iterator
from contextlib import contextmanager

from diskmigration.api import names
from diskmigration.cluster import client, resources
from testbed.control_plane import ControlPlane
from testbed.programs import SYSTEM_NAMESPACE
from tests.integration.user import user_of

_OURS = (names.DISK_MIGRATIONS, names.STORAGE_DOMAINS, names.LIBVIRT_HOSTS)


@contextmanager
def one_node(control_plane: ControlPlane, node: str, namespace: str) -> Iterator[None]:
    """Have one Node and a namespace for the block, and before and after it no object of which a program would know."""
    _remove_objects(control_plane)
    control_plane.create_node(node, {})
    # It stays: nothing here empties and removes namespaces.
    if not control_plane.kubectl("get", "namespace", namespace, "--ignore-not-found", "--output=name"):
        control_plane.kubectl("create", "namespace", namespace)
    try:
        yield
    finally:
        _remove_objects(control_plane)


def _remove_objects(control_plane: ControlPlane) -> None:
    cluster, user = client.connect(control_plane.admin_kubeconfig), user_of(control_plane.admin_kubeconfig)
    for plural in (*_OURS, resources.NODES, resources.LEASES):
        found = cluster.list(plural, namespace=SYSTEM_NAMESPACE if plural == resources.LEASES else "")
        for metadata in (body["metadata"] for body in found):
            place = metadata.get("namespace", "")
            if metadata.get("finalizers"):
                user.patch(plural, metadata["name"], {"metadata": {"finalizers": None}}, namespace=place)
            user.delete(plural, metadata["name"], place)
