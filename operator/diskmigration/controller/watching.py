"""kopf's part: it watches the three kinds and tells the controller of every event. It decides and writes nothing."""

from dataclasses import asdict
from typing import Any, NoReturn

import kopf

from diskmigration.api import names
from diskmigration.cluster import watching
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.retrying import ForEver
from diskmigration.controller.controller import Controller


async def watch(cluster: Cluster, controller: Controller) -> NoReturn:
    """Feed the controller until this is cancelled. A watch that breaks is begun again.

    Raises:
        WatchHangsError: a watch that broke hangs: the process is to be started anew.
    """
    plurals = {names.DISK_MIGRATIONS, names.LIBVIRT_HOSTS, names.STORAGE_DOMAINS}
    await watching.keep_watching(
        lambda: watching.watch(_registry(cluster, controller), _settings(), plurals=plurals),
        fatal=watching.WatchHangsError,
    )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    # There is one operator at work at a time, and it is not kopf that sees to it.
    settings.peering.standalone = True
    # The kinds are known and never change while it runs; it needs no rights on CRDs and namespaces.
    settings.scanning.disabled = True
    # kopf strips its finalizer from every object as no handler needs it: it must not be ours.
    settings.persistence.finalizer = f"{names.GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"operator.{names.GROUP}")
    # Events are the reconciler's to tell.
    settings.posting.enabled = False
    # A list of 10,000 objects in one answer is a peak of memory on both sides.
    settings.watching.chunk_size = 500
    # The server ends a watch after this, so that a balancer that forgot the connection costs no more than that.
    settings.watching.server_timeout = 300
    # In case the server's end of the watch does not arrive either.
    settings.watching.client_timeout = 330
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = ForEver()
    # A worker a live object is kept for this long: short, as thousands of objects change at once.
    settings.queueing.idle_timeout = 1.0
    return settings


def _registry(cluster: Cluster, controller: Controller) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    state = controller.state

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(**asdict(cluster.credentials()))

    @kopf.on.event(names.GROUP, names.VERSION, names.DISK_MIGRATIONS, registry=registry)
    async def on_migration(event: kopf.RawEvent, **_: Any) -> None:
        body = event["object"]
        if event["type"] == "DELETED":
            metadata = body["metadata"]
            state.forget_migration(f"{metadata['namespace']}/{metadata['name']}", metadata["uid"])
        else:
            state.observe_migration(body)

    @kopf.on.event(names.GROUP, names.VERSION, names.LIBVIRT_HOSTS, registry=registry)
    async def on_host(event: kopf.RawEvent, **_: Any) -> None:
        body = event["object"]
        if event["type"] == "DELETED":
            state.forget_host(body["metadata"]["name"], body["metadata"]["uid"])
        else:
            state.observe_host(body)

    @kopf.on.event(names.GROUP, names.VERSION, names.STORAGE_DOMAINS, registry=registry)
    async def on_domain(event: kopf.RawEvent, **_: Any) -> None:
        body = event["object"]
        if event["type"] == "DELETED":
            state.forget_domain(body["metadata"]["name"], body["metadata"]["uid"])
        else:
            state.observe_domain(body)

    return registry
