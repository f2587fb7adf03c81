"""Single requests to the API server with an account's token, and who of the server's judges refused them."""

import json
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client import ApiClient

from diskmigration.api.names import API_VERSION, SYSTEM_NAMESPACE

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
JSON = "application/json"


class Answer(Enum):
    """What came of a request."""

    ALLOWED = "allowed"
    BY_ROLES = "refused by RBAC"
    BY_NODE_FENCE = "refused by the node fence"
    BY_OPERATOR_FENCE = "refused by the operator's fence"
    BY_SCHEMA = "refused by the schema"


@dataclass(frozen=True)
class Request:
    """One request; those that write are dry runs, which pass all of the server's judges and change nothing."""

    verb: str
    path: str
    body: dict[str, Any] | None = None
    content_type: str = JSON

    def in_namespace(self, namespace: str) -> "Request":
        """The same of an installation in another namespace."""
        body = json.loads(json.dumps(self.body).replace(SYSTEM_NAMESPACE, namespace))
        return replace_fields(self, path=self.path.replace(SYSTEM_NAMESPACE, namespace), body=body)

    def __str__(self) -> str:
        """As a test's name shows it."""
        return f"{self.verb} {self.path} {json.dumps(self.body) if self.body else ''}".strip()


def migrations(namespace: str, name: str = "", subresource: str = "") -> str:
    return _path("apis", API_VERSION, "namespaces", namespace, "diskmigrations", name, subresource)


def libvirthosts(name: str = "", subresource: str = "") -> str:
    return _path("apis", API_VERSION, "libvirthosts", name, subresource)


def storage_domains(name: str = "", subresource: str = "") -> str:
    return _path("apis", API_VERSION, "storagedomains", name, subresource)


def leases(name: str = "", namespace: str = SYSTEM_NAMESPACE) -> str:
    return _path("apis", "coordination.k8s.io/v1", "namespaces", namespace, "leases", name)


def events(namespace: str) -> str:
    return _path("apis", "events.k8s.io/v1", "namespaces", namespace, "events")


def core(plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    return _path("api/v1", *(["namespaces", namespace] if namespace else []), plural, name, subresource)


def _path(*parts: str) -> str:
    return "/" + "/".join(part for part in parts if part)


def get(path: str) -> Request:
    return Request("GET", path)


def create(path: str, body: dict[str, Any]) -> Request:
    return Request("POST", path, body)


def replace(path: str, body: dict[str, Any]) -> Request:
    return Request("PUT", path, body)


def patch(path: str, **body: Any) -> Request:
    return Request("PATCH", path, body, MERGE)


def apply(path: str, body: dict[str, Any]) -> Request:
    """As the programs write: it makes the object where it is not there yet."""
    return Request("PATCH", path, body, APPLY)


def delete(path: str) -> Request:
    return Request("DELETE", path)


@dataclass(frozen=True)
class Response:
    """What the server answered."""

    status: int
    headers: dict[str, str]
    said: str


@cache
def _client(kubeconfig: Path) -> ApiClient:
    """The account's client, with its connection."""
    client: ApiClient = config.new_client_from_config(str(kubeconfig))
    return client


def send(kubeconfig: Path, request: Request) -> Response:
    """Sends the request with the account's token."""
    client = _client(kubeconfig)
    query = [] if request.verb == "GET" else [("dryRun", "All")]
    if request.content_type == APPLY:
        query += [("fieldManager", "rights"), ("force", "true")]
    headers = {"Accept": JSON, "Content-Type": request.content_type}
    serialized = client.param_serialize(
        request.verb,
        request.path,
        query_params=query,
        header_params=headers,
        body=request.body,
        auth_settings=["BearerToken"],
    )
    response = client.call_api(*serialized, _request_timeout=15)
    said = response.read().decode()
    return Response(response.status, dict(response.getheaders()), said)


def ask(kubeconfig: Path, request: Request) -> tuple[Answer, str]:
    """What came of the request, and what the server said. A 404 or another status that judges nothing is an error."""
    response = send(kubeconfig, request)
    if 200 <= response.status < 300:
        return Answer.ALLOWED, response.said
    message = str(json.loads(response.said).get("message", ""))
    if response.status == 422:
        return Answer.BY_SCHEMA, message
    assert response.status == 403, f"{request}: HTTP {response.status}: {message}"
    for policy, answer in (
        ("diskmigration-node-fence", Answer.BY_NODE_FENCE),
        ("diskmigration-operator-fence", Answer.BY_OPERATOR_FENCE),
    ):
        if f"ValidatingAdmissionPolicy '{policy}'" in message:
            return answer, message
    assert " cannot " in message, message
    return Answer.BY_ROLES, message
