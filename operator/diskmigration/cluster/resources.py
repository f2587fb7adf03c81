"""Where the kinds that this project touches live on the API server."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from diskmigration.api import names


@dataclass(frozen=True)
class Resource:
    """One kind: its apiVersion, its kind, and its plural in URLs."""

    api_version: str
    kind: str
    plural: str

    def path(self, name: str = "", *, namespace: str = "", subresource: str = "") -> str:
        """The URL path of an object, or of the collection if no name is given."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


NODES: Final = "nodes"
LEASES: Final = "leases"
EVENTS: Final = "events"

_ALL: Final = (
    Resource(names.API_VERSION, "DiskMigration", names.DISK_MIGRATIONS),
    Resource(names.API_VERSION, "StorageDomain", names.STORAGE_DOMAINS),
    Resource(names.API_VERSION, "LibvirtHost", names.LIBVIRT_HOSTS),
    Resource("v1", "Node", NODES),
    Resource("coordination.k8s.io/v1", "Lease", LEASES),
    Resource("events.k8s.io/v1", "Event", EVENTS),
)

BY_PLURAL: Final = {resource.plural: resource for resource in _ALL}
