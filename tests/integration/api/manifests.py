"""Manifests as users write them."""

from typing import Any

API_VERSION = "diskmigration.dev/v1alpha1"


def migration(name: str = "web-1", **spec: Any) -> dict[str, Any]:
    """A DiskMigration with only what must be said; a field that is None is left out."""
    whole = {
        "virtualMachine": {"name": "web-1"},
        "disk": "vda",
        "destination": {"storageDomainName": "nfs"},
        **spec,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "DiskMigration",
        "metadata": {"name": name},
        "spec": {field: value for field, value in whole.items() if value is not None},
    }


def domain(name: str = "nfs", **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "StorageDomain", "metadata": {"name": name}, "spec": spec}
