"""Requests to the Kubernetes API, with errors that tell a caller what to do."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diskmigration.api.model import ObjectMeta
from diskmigration.cluster import resources, wire
from diskmigration.cluster.errors import ConflictError, ObjectGoneError
from diskmigration.cluster.transport import APPLY_PATCH, JSON, MERGE_PATCH, JsonObject, Transport, open_transport
from diskmigration.cluster.versions import Versions

APPLY_TRIES = 5
LIST_PAGE_SIZE = 500

JsonObjects = list[JsonObject]


@dataclass(frozen=True)
class Credentials:
    """What another client (kopf) needs to be the same identity; the fields are those of kopf.ConnectionInfo."""

    server: str
    ca_path: str | None
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    insecure: bool


def connect(kubeconfig: Path | None = None) -> "Cluster":
    """Return the cluster of the credentials that are found; see `open_transport`.

    Raises:
        ClusterUnavailableError: there are no usable credentials.
    """
    return Cluster(open_transport(kubeconfig))


class Cluster:
    """One Kubernetes API server, as one identity: a method for each kind of request that this project makes.

    They share the transport and the known resourceVersions, so they are one class.
    """

    def __init__(self, transport: Transport) -> None:
        """Use `connect`."""
        self._transport = transport
        self._versions = Versions()

    def fenced(self, may_write: Callable[[], bool]) -> "Cluster":
        """The same server and identity; nothing is written unless `may_write` says so at that moment.

        A write that is held back raises ClusterUnavailableError.
        """
        return Cluster(replace(self._transport, may_write=may_write))

    def impatient(self, *, timeout_seconds: float) -> "Cluster":
        """The same server and identity, for requests that are of no use when they take longer than that."""
        connect_seconds, read_seconds = self._transport.timeouts
        timeouts = (min(connect_seconds, timeout_seconds), min(read_seconds, timeout_seconds))
        return Cluster(replace(self._transport, timeouts=timeouts))

    def credentials(self) -> Credentials:
        """The identity as it is now: a service account's token is read again from its file when it is due."""
        configuration = self._transport.client.configuration
        authorization = configuration.auth_settings().get("BearerToken", {}).get("value") or ""
        return Credentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            token=authorization.partition(" ")[2] or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            insecure=not configuration.verify_ssl,
        )

    def list(self, plural: str, *, namespace: str = "", field_selector: str = "") -> JsonObjects:
        """Every object of a kind, in all namespaces unless one is given. Raises: as `pages`."""
        return [
            item for page in self.pages(plural, namespace=namespace, field_selector=field_selector) for item in page
        ]

    def pages(self, plural: str, *, namespace: str = "", field_selector: str = "") -> Iterator[JsonObjects]:
        """The same in pages of at most 500, for callers that keep little of each object.

        Raises:
            ObjectGoneError: the server has forgotten the list's version half-way; begin again.
            ClusterUnavailableError, RefusedError: as every request.
        """
        resource = resources.BY_PLURAL[plural]
        path = resource.path(namespace=namespace)
        query: dict[str, str] = {"limit": str(LIST_PAGE_SIZE)}
        if field_selector:
            query["fieldSelector"] = field_selector
        while True:
            answer = self._transport.request("GET", plural, path, query=query)
            yield wire.items(answer, resource.kind)
            token = answer["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def get(self, plural: str, name: str, namespace: str = "", *, may_be_older: bool = False) -> JsonObject | None:
        """One object, or None if there is no such one.

        One that may be older comes from the server's memory, as it was a moment ago, and is no work for etcd.
        """
        path = resources.BY_PLURAL[plural].path(name, namespace=namespace)
        try:
            return self._transport.request(
                "GET", plural, path, query={"resourceVersion": "0"} if may_be_older else None
            )
        except ObjectGoneError:
            return None

    def apply(self, plural: str, name: str, body: JsonObject, *, namespace: str = "", field_manager: str) -> JsonObject:
        """Server-side apply of a whole object (its status aside): it is made if it is not there yet.

        `body` needs no apiVersion, kind or name. Fields of the same manager that it leaves out are removed.

        Raises:
            ClusterUnavailableError, ConflictError, RefusedError: as every request.
        """
        resource = resources.BY_PLURAL[plural]
        metadata = {**body.get("metadata", {}), "name": name, **({"namespace": namespace} if namespace else {})}
        return self._transport.request(
            "PATCH",
            plural,
            resource.path(name, namespace=namespace),
            query={"fieldManager": field_manager, "force": "true"},
            body={**body, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata},
            content_type=APPLY_PATCH,
        )

    def apply_status(
        self,
        plural: str,
        name: str,
        status: JsonObject,
        *,
        namespace: str = "",
        uid: str,
        field_manager: str,
        resource_version: str = "",
        seen_version: str = "",
    ) -> JsonObject:
        """Server-side apply of an object's status, forced over other managers; the object as it is now.

        Fields that only this manager owned and that `status` leaves out are removed by the server.
        With a resourceVersion the object must still be as it was read; without one it only must be the same object.

        The server passes over the uid of a status that is applied, so that one meant for a deleted object would land on
        another that has taken its name. Each apply therefore carries a resourceVersion that this uid is known to have
        had: that of the last answer, at first `seen_version` where it is given, so that mostly no more is asked.

        Raises:
            ObjectGoneError: the object is gone, or another uid has its name: nothing was written.
            ConflictError: its resourceVersion is not the given one, or changed too often meanwhile.
            ClusterUnavailableError, RefusedError: as every request.
        """
        tries = 1 if resource_version else APPLY_TRIES
        while True:
            tries -= 1
            known = resource_version or self._versions.get(uid) or seen_version
            version = known or self._version(plural, name, namespace, uid)
            try:
                body = self._apply_status(
                    plural, name, status, namespace=namespace, field_manager=field_manager, resource_version=version
                )
            except ConflictError as error:
                self._versions.forget(uid)
                seen_version = ""
                if tries == 0:
                    self._raise_if_replaced(plural, name, namespace, uid, error)
                    raise
            else:
                self._versions.put(uid, body["metadata"]["resourceVersion"])
                return body

    def _apply_status(
        self, plural: str, name: str, status: JsonObject, *, namespace: str, field_manager: str, resource_version: str
    ) -> JsonObject:
        resource = resources.BY_PLURAL[plural]
        metadata = {"name": name, "resourceVersion": resource_version}
        if namespace:
            metadata["namespace"] = namespace
        return self._transport.request(
            "PATCH",
            plural,
            resource.path(name, namespace=namespace, subresource="status"),
            query={"fieldManager": field_manager, "force": "true"},
            body={"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "status": status},
            content_type=APPLY_PATCH,
        )

    def _version(self, plural: str, name: str, namespace: str, uid: str) -> str:
        """The object's resourceVersion now, provided that it is still that object."""
        found = self.get(plural, name, namespace)
        if found is None or found["metadata"]["uid"] != uid:
            raise ObjectGoneError(f"{plural} {namespace}/{name} with uid {uid} is gone")
        return str(found["metadata"]["resourceVersion"])

    def add_finalizer(self, plural: str, metadata: ObjectMeta, finalizer: str) -> JsonObject:
        """Adds a finalizer to the object as it was read; the object as it is now.

        Raises:
            ConflictError: it has changed since it was read.
            ObjectGoneError, ClusterUnavailableError, RefusedError: as `apply_status`.
        """
        return self._set_finalizers(plural, metadata, [*metadata.finalizers, finalizer])

    def remove_finalizer(self, plural: str, metadata: ObjectMeta, finalizer: str) -> JsonObject | None:
        """Takes a finalizer off the object as it was read; the object as it is now, None if it is gone.

        The server deletes an object that was to go as soon as it has none left, and answers with what it deleted.

        Raises: as `add_finalizer`, but nothing if the object is gone already.
        """
        kept = [held for held in metadata.finalizers if held != finalizer]
        try:
            return self._set_finalizers(plural, metadata, kept)
        except ObjectGoneError:
            return None

    def _set_finalizers(self, plural: str, metadata: ObjectMeta, finalizers: Sequence[str]) -> JsonObject:
        # The list is replaced whole, so the resourceVersion must hold: others' finalizers are not ours to lose.
        body = {"metadata": {"resourceVersion": metadata.resource_version, "finalizers": list(finalizers)}}
        path = resources.BY_PLURAL[plural].path(metadata.name, namespace=metadata.namespace)
        try:
            return self._transport.request("PATCH", plural, path, body=body, content_type=MERGE_PATCH)
        except ConflictError as error:
            self._raise_if_replaced(plural, metadata.name, metadata.namespace, metadata.uid, error)
            raise

    def observe_generation(self, plural: str, metadata: ObjectMeta) -> JsonObject:
        """Has the status say that it speaks of the object as it was read; the object as it is now.

        Raises: as `add_finalizer`.
        """
        status = {"observedGeneration": metadata.generation}
        body = {"metadata": {"resourceVersion": metadata.resource_version}, "status": status}
        path = resources.BY_PLURAL[plural].path(metadata.name, namespace=metadata.namespace, subresource="status")
        try:
            return self._transport.request("PATCH", plural, path, body=body, content_type=MERGE_PATCH)
        except ConflictError as error:
            self._raise_if_replaced(plural, metadata.name, metadata.namespace, metadata.uid, error)
            raise

    def delete(self, plural: str, name: str, namespace: str = "", *, uid: str) -> None:
        """Deletes that very object; one that is gone already, or replaced by another, is left alone."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        path = resources.BY_PLURAL[plural].path(name, namespace=namespace)
        try:
            self._transport.request("DELETE", plural, path, body=body, content_type=JSON)
        except ObjectGoneError:
            return
        except ConflictError as error:
            try:
                self._raise_if_replaced(plural, name, namespace, uid, error)
            except ObjectGoneError:
                return
            raise

    def create(self, plural: str, body: JsonObject, *, namespace: str = "") -> JsonObject:
        """Makes a new object; `body` needs no apiVersion and kind. Raises: as every request."""
        resource = resources.BY_PLURAL[plural]
        whole = {**body, "apiVersion": resource.api_version, "kind": resource.kind}
        return self._transport.request(
            "POST", plural, resource.path(namespace=namespace), body=whole, content_type=JSON
        )

    def replace(self, plural: str, body: JsonObject) -> JsonObject:
        """Puts an object in the place of itself as it was read. Raises: as `add_finalizer`."""
        metadata = body["metadata"]
        path = resources.BY_PLURAL[plural].path(metadata["name"], namespace=metadata.get("namespace", ""))
        return self._transport.request("PUT", plural, path, body=body, content_type=JSON)

    def document(self, path: str) -> JsonObject:
        """Return what the server publishes at a path beside its objects. Raises: as every request."""
        return self._transport.request("GET", path, path, is_object=False)

    def get_node(self, name: str, *, may_be_older: bool = False) -> tuple[str, dict[str, str]] | None:
        """A Node's uid and labels, or None if there is no such Node; perhaps as they were a moment ago, see `get`."""
        node = self.get(resources.NODES, name, may_be_older=may_be_older)
        return (node["metadata"]["uid"], dict(node["metadata"].get("labels") or {})) if node is not None else None

    def _raise_if_replaced(self, plural: str, name: str, namespace: str, uid: str, error: Exception) -> None:
        """The server words a uid that differs in several ways ; looking is the one sure answer."""
        try:
            self._version(plural, name, namespace, uid)
        except ObjectGoneError as gone:
            raise gone from error
