"""Whether the CRDs in the cluster know each field that this program writes.

Server-side apply of a field that a CRD does not declare is no refusal but an error 500 (structuredmerge.go in
apimachinery), for each write of that object.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from diskmigration.api.disk_migration import DiskMigrationStatus
from diskmigration.api.libvirt_host import LibvirtHostStatus
from diskmigration.api.model import Model
from diskmigration.api.names import GROUP, VERSION
from diskmigration.api.storage_domain import StorageDomainStatus
from diskmigration.cluster.client import Cluster
from diskmigration.cluster.errors import ClusterError

_log = logging.getLogger(__name__)

JsonObject = Mapping[str, Any]

CRDS = "the CRDs"
"""The name under which the probes show what they lack."""

LOOK_SECONDS = 10.0
"""How often it is looked again until the CRDs declare all."""

_SHOWN = 5
"""How many of the fields a message names."""

PATH = f"/openapi/v3/apis/{GROUP}/{VERSION}"
"""Where the API server publishes the schemas, to every account."""

_WRITTEN: Mapping[str, type[Model]] = {
    "DiskMigration": DiskMigrationStatus,
    "StorageDomain": StorageDomainStatus,
    "LibvirtHost": LibvirtHostStatus,
}


class Probes(Protocol):
    """What tells whether the program is ready; see Health."""

    def answers(self, part: str) -> None:
        """The part is there."""

    def lacks(self, part: str, why: str) -> None:
        """The part is not there yet."""


def start_comparing(cluster: Cluster, probes: Probes) -> None:
    """Have the probes say what the CRDs do not declare, until they declare all that this program writes."""
    threading.Thread(target=_compare, args=(cluster, probes), name="schemas", daemon=True).start()


def _compare(cluster: Cluster, probes: Probes) -> None:
    while True:
        try:
            unknown = unknown_fields(cluster.document(PATH))
        except ClusterError as error:
            _log.warning("the schemas of the CRDs could not be read", extra={"error": str(error)})
        else:
            if not unknown:
                probes.answers(CRDS)
                return
            why = lacking(unknown)
            probes.lacks(CRDS, why)
            _log.error("the CRDs are older than this program", extra={"error": why})
        time.sleep(LOOK_SECONDS)


def lacking(unknown: tuple[str, ...]) -> str:
    """Return what the probes say of fields that the CRDs do not declare. Pure."""
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    fields = f"{', '.join(unknown[:_SHOWN])}{more}"
    return (
        f"the CRDs in the cluster are older than this program: they do not declare {fields}. Apply the CRDs of its "
        "version"
    )


def unknown_fields(published: JsonObject) -> tuple[str, ...]:
    """Return what the programs write and the published OpenAPI document does not declare. Pure.

    Each is a path as `DiskMigration status.progress.copiedBytes`; a kind that is not there at all is its name alone.
    """
    kinds = {
        meant["kind"]: schema
        for schema in published.get("components", {}).get("schemas", {}).values()
        for meant in schema.get("x-kubernetes-group-version-kind", ())
    }
    found: list[str] = []
    for kind, model in _WRITTEN.items():
        status = kinds.get(kind, {}).get("properties", {}).get("status")
        if status is None:
            found.append(kind)
            continue
        written = model.model_json_schema(by_alias=True, mode="serialization")
        found += (f"{kind} status.{path}" for path in _missing(written, status, written.get("$defs", {})))
    return tuple(found)


def _missing(written: JsonObject, declared: JsonObject, definitions: JsonObject) -> Iterator[str]:
    for schema in _variants(written, definitions):
        if "items" in schema:
            yield from _missing(schema["items"], _plain(declared).get("items", {}), definitions)
        for name, below in schema.get("properties", {}).items():
            known = _plain(declared).get("properties", {}).get(name)
            if known is None:
                yield name
            else:
                yield from (f"{name}.{path}" for path in _missing(below, known, definitions))


def _variants(schema: JsonObject, definitions: JsonObject) -> Iterator[JsonObject]:
    """Yield the schema, or those of which it is one, without references."""
    if "$ref" in schema:
        yield from _variants(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from _variants(each, definitions)
    else:
        yield schema


def _plain(declared: JsonObject) -> JsonObject:
    """Return a schema that the server has wrapped to give it a default or a description."""
    [wrapped] = declared.get("allOf", [declared])
    plain: JsonObject = wrapped
    return plain
