"""What administrators and users write to the API server as kubectl does, without a process for each request."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diskmigration.cluster import resources
from diskmigration.cluster.errors import ClusterError, ObjectGoneError
from diskmigration.cluster.transport import APPLY_PATCH, JSON, MERGE_PATCH, Transport, open_transport
from testbed.processes import TestbedError

_STRICT = {"fieldValidation": "Strict"}


@dataclass(frozen=True)
class User:
    """Somebody with credentials of a cluster. A request that the server refuses raises TestbedError with its answer."""

    transport: Transport

    def apply(self, document: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """`kubectl apply --server-side --force-conflicts`; returns the object as it is then."""
        resource = next(known for known in resources.BY_PLURAL.values() if known.kind == document["kind"])
        metadata = document["metadata"]
        path = resource.path(metadata["name"], namespace=metadata.get("namespace", ""))
        query = {"fieldManager": "kubectl", "force": "true", **_STRICT, **({"dryRun": "All"} if dry_run else {})}
        with _as_refusal():
            return self.transport.request(
                "PATCH", resource.plural, path, query=query, body=document, content_type=APPLY_PATCH
            )

    def patch(
        self, plural: str, name: str, body: dict[str, Any], *, namespace: str = "", subresource: str = ""
    ) -> dict[str, Any]:
        """`kubectl patch --type=merge`; returns the object as it is then."""
        path = resources.BY_PLURAL[plural].path(name, namespace=namespace, subresource=subresource)
        query = {"fieldManager": "kubectl-patch", **_STRICT}
        with _as_refusal():
            return self.transport.request("PATCH", plural, path, query=query, body=body, content_type=MERGE_PATCH)

    def create_namespace(self, name: str) -> None:
        """`kubectl create namespace`."""
        with _as_refusal():
            self.transport.request(
                "POST", "namespaces", "/api/v1/namespaces", body={"metadata": {"name": name}}, content_type=JSON
            )

    def delete(self, plural: str, name: str, namespace: str = "") -> None:
        """`kubectl delete --wait=false --ignore-not-found`."""
        path = resources.BY_PLURAL[plural].path(name, namespace=namespace)
        with _as_refusal():
            try:
                self.transport.request("DELETE", plural, path)
            except ObjectGoneError:
                return


def user_of(kubeconfig: Path) -> User:
    """Return whom the credentials are of."""
    return User(open_transport(kubeconfig))


@contextmanager
def _as_refusal() -> Iterator[None]:
    try:
        yield
    except ClusterError as error:
        raise TestbedError(str(error)) from error
