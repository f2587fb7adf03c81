"""One request to the Kubernetes API, with errors that tell a caller what to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.client.exceptions import ApiException

from diskmigration import clock
from diskmigration.cluster import request_metrics, wire
from diskmigration.cluster.errors import ClusterUnavailableError
from diskmigration.cluster.retry_after import Pauses
from diskmigration.cluster.text import printable_object

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 15
"""Below the API server's own 60 s: a caller that waits for longer has better things to do."""

APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"

CONNECTIONS = 32
# The server names the manager of fields that are written without apply after this, up to the slash.
_USER_AGENT = "diskmigration/v1alpha1"

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Transport:
    """The way to one API server. The time-outs, in seconds, are for the connection and for each answer.

    Nothing is written unless `may_write` says so at that moment.
    """

    client: kubernetes_client.ApiClient
    may_write: Callable[[], bool] | None = None
    timeouts: tuple[float, float] = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
    pauses: Pauses = field(default_factory=Pauses)

    def request(
        self,
        method: str,
        plural: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "",
        is_object: bool = True,
    ) -> JsonObject:
        """Send the request and return the answer's object; `plural` is that of the kind in the path.

        What is asked for may be another document, and no object of the API.

        Raises:
            ClusterError: it was not sent, or the API server refused it, or did not answer.
        """
        doing = f"{method} {path}"
        if method != "GET" and self.may_write is not None and not self.may_write():
            raise ClusterUnavailableError(f"{doing}: not sent, as another operator may lead now")
        if (seconds := self.pauses.left(plural)) > 0:
            raise ClusterUnavailableError(f"{doing}: not sent, as the API server asked for {seconds:.0f} s of rest")
        headers = {"Accept": JSON, **({"Content-Type": content_type} if content_type else {})}
        try:
            request = self.client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=wire.encoded(printable_object(body), is_apply=content_type == APPLY_PATCH),
                auth_settings=["BearerToken"],
            )
            asked = clock.steady_seconds()
            response = self.client.call_api(*request, _request_timeout=self.timeouts)
            answered = clock.steady_seconds()
            content = response.read()
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            request_metrics.API_FAILURES.inc()
            # Without an HTTP status: TLS, connection, time-out, or the service account's token cannot be read.
            raise ClusterUnavailableError(f"{doing}: no answer from the Kubernetes API: {error}") from error
        clock.note(response.headers.get("Date"), asked=asked, answered=answered)
        request_metrics.API_REQUEST_SECONDS.observe(clock.steady_seconds() - asked)
        if response.status == HTTPStatus.TOO_MANY_REQUESTS or "Retry-After" in response.headers:
            request_metrics.API_THROTTLED.inc()
        self.pauses.note(plural, response.status, response.headers.get("Retry-After"))
        return wire.answer(doing, response.status, content, is_object=is_object)


def open_transport(kubeconfig: Path | None = None) -> Transport:
    """Read the credentials and return the transport, which opens no connection yet.

    Without a kubeconfig: those of the pod this runs in, else $KUBECONFIG or ~/.kube/config.

    Raises:
        ClusterUnavailableError: there are no usable credentials.
    """
    configuration = kubernetes_client.Configuration()
    try:
        if kubeconfig is not None:
            kubernetes_config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        else:
            try:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            except kubernetes_config.ConfigException:
                kubernetes_config.load_kube_config(client_configuration=configuration)
    except (kubernetes_config.ConfigException, OSError) as error:
        raise ClusterUnavailableError(
            f"no credentials for the Kubernetes API: {error}. Run in a pod with a service account, "
            "or name a kubeconfig with --kubeconfig or $KUBECONFIG"
        ) from error
    configuration.connection_pool_maxsize = CONNECTIONS
    # One more try where the server closed a kept-alive connection; everything slower is the caller's decision.
    configuration.retries = urllib3.Retry(total=1, redirect=0, status=0, respect_retry_after_header=False)
    api_client = kubernetes_client.ApiClient(configuration)
    api_client.user_agent = _USER_AGENT
    return Transport(api_client)
