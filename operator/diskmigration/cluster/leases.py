"""Leases (coordination.k8s.io/v1): how one program knows that another is alive."""

from dataclasses import dataclass
from datetime import datetime

from diskmigration import clock
from diskmigration.cluster import resources
from diskmigration.cluster.client import Cluster


@dataclass(frozen=True)
class Lease:
    """Who holds it, when that was last renewed (by the holder's clock), and for how long each renewal counts."""

    holder: str
    renew_time: datetime
    duration_seconds: int


def renew_lease(cluster: Cluster, namespace: str, name: str, *, holder: str, duration_seconds: int) -> None:
    """Says that `holder` is alive now; the Lease is made if it is not there yet.

    Raises:
        ClusterUnavailableError, ConflictError, RefusedError: as every request.
    """
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": duration_seconds,
        "renewTime": clock.now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    cluster.apply(resources.LEASES, name, {"spec": spec}, namespace=namespace, field_manager=holder)


def list_leases(cluster: Cluster, namespace: str) -> dict[str, Lease]:
    """The namespace's Leases by name; one that was never renewed is left out.

    Raises:
        ClusterUnavailableError, RefusedError: as every request.
    """
    found = {}
    for item in cluster.list(resources.LEASES, namespace=namespace):
        spec = item.get("spec") or {}
        if spec.get("renewTime"):
            found[item["metadata"]["name"]] = Lease(
                holder=spec.get("holderIdentity", ""),
                renew_time=datetime.fromisoformat(spec["renewTime"]),
                duration_seconds=int(spec.get("leaseDurationSeconds", 0)),
            )
    return found
