"""The CRD files are the source of truth: every model says what its schema says, no less and no more."""

import enum
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import AwareDatetime, TypeAdapter
from pydantic.fields import FieldInfo

from diskmigration.api import names
from diskmigration.api.available_floor import AvailableFloor
from diskmigration.api.disk_migration import DiskMigration, Phase
from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.api.model import Model
from diskmigration.api.storage_domain import StorageDomain

CRDS = Path(__file__).parents[3] / "crds"
KINDS: dict[str, type[Model]] = {
    "diskmigrations": DiskMigration,
    "libvirthosts": LibvirtHost,
    "storagedomains": StorageDomain,
}
Schema = dict[str, Any]


def crd(plural: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return loaded


def schema_of(plural: str) -> Schema:
    (version,) = crd(plural)["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


def bare(annotation: Any) -> Any:
    """The one type that an optional, a list or an annotated one is of."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return bare(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType, tuple):
        return bare(next(part for part in typing.get_args(annotation) if part not in (type(None), ...)))
    return annotation


class Pair(typing.NamedTuple):
    """An object of a schema and the model that reads it."""

    where: str
    schema: Schema
    model: type[Model]


def pairs(where: str, schema: Schema, model: type[Model]) -> Iterator[Pair]:
    yield Pair(where, schema, model)
    for name, part in properties(schema).items():
        field = fields(model).get(name)
        kind = bare(field.annotation) if field is not None else None
        inner = part.get("items", part)
        if isinstance(kind, type) and issubclass(kind, Model):
            yield from pairs(f"{where}.{name}", inner, kind)


def properties(schema: Schema) -> dict[str, Schema]:
    found: dict[str, Schema] = schema.get("properties", {})
    return {name: part for name, part in found.items() if name not in ("apiVersion", "kind", "metadata")}


def fields(model: type[Model]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items() if name != "metadata"}


PAIRS = [pair for plural, model in KINDS.items() for pair in pairs(plural, schema_of(plural), model)]
PROPERTIES = [
    pytest.param(part, fields(pair.model)[name], id=f"{pair.where}.{name}")
    for pair in PAIRS
    for name, part in properties(pair.schema).items()
    if name in fields(pair.model)
]
each_pair = pytest.mark.parametrize("pair", [pytest.param(pair, id=pair.where) for pair in PAIRS])
each_property = pytest.mark.parametrize(("schema", "field"), PROPERTIES)


def test_every_kind_has_its_file_and_model() -> None:
    resources = yaml.safe_load((CRDS / "kustomization.yaml").read_text())["resources"]
    assert sorted(resources) == sorted(f"{plural}.yaml" for plural in KINDS)
    for plural, model in KINDS.items():
        spec = crd(plural)["spec"]
        assert spec["group"] == names.GROUP
        assert [version["name"] for version in spec["versions"]] == [names.VERSION]
        assert (spec["names"]["plural"], spec["names"]["kind"]) == (plural, model.__name__)
    assert {names.DISK_MIGRATIONS, names.LIBVIRT_HOSTS, names.STORAGE_DOMAINS} == set(KINDS)


def test_the_walk_reaches_the_innermost_parts() -> None:
    reached = {pair.where for pair in PAIRS}
    assert reached >= {
        "diskmigrations.spec.virtualMachine",
        "diskmigrations.status.conditions",
        "diskmigrations.status.destination.volumes",
        "libvirthosts.status.virtualMachines.disks",
        "storagedomains.spec.thinProvisioning",
    }


@each_pair
def test_the_model_has_the_schemas_properties_and_no_other(pair: Pair) -> None:
    assert set(fields(pair.model)) == set(properties(pair.schema))


@each_pair
def test_both_demand_the_same(pair: Pair) -> None:
    demanded = {name for name, field in fields(pair.model).items() if field.is_required()}
    assert demanded == set(pair.schema.get("required", ()))


@each_property
def test_enums_are_equal(schema: Schema, field: FieldInfo) -> None:
    kind = bare(field.annotation)
    is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
    # The reasons are documented in a table rather than in the schema: a new one is no change of the API.
    if is_enum and kind.__name__ != "Reason":
        assert sorted(schema["enum"]) == sorted(member.value for member in kind)
    else:
        assert "enum" not in schema


@each_property
def test_defaults_are_equal(schema: Schema, field: FieldInfo) -> None:
    if "default" not in schema:
        return
    filled = {name: part["default"] for name, part in properties(schema).items() if "default" in part}
    default = {**filled, **schema["default"]} if isinstance(schema["default"], dict) else schema["default"]
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    read: Any = TypeAdapter(kind).validate_python(default)
    assert read == field.get_default(call_default_factory=True)


SPEC_FIELDS_WITHOUT_DEFAULT = [
    pytest.param(name, field, id=f"{pair.where}.{name}")
    for pair in PAIRS
    if ".spec" in pair.where
    for name, field in fields(pair.model).items()
    if name in properties(pair.schema) and "default" not in properties(pair.schema)[name] and not field.is_required()
]


@pytest.mark.parametrize(("name", "field"), SPEC_FIELDS_WITHOUT_DEFAULT)
def test_a_model_makes_up_no_default(name: str, field: FieldInfo) -> None:
    # A file domain must not have thinProvisioning, so that its schema can give none as a whole.
    if name == "thinProvisioning":
        return
    assert not field.get_default(call_default_factory=True)


def is_moment(schema: Schema) -> bool:
    """Whether the server reads it as a time: by its format in a status, by a rule of its own in a spec."""
    rules = (each["rule"] for each in schema.get("x-kubernetes-validations", ()))
    return schema.get("format") == "date-time" or any(rule.startswith("timestamp(self") for rule in rules)


@each_property
def test_types_are_equal(schema: Schema, field: FieldInfo) -> None:
    kind = bare(field.annotation)
    if schema.get("x-kubernetes-int-or-string"):
        assert kind in (int, AvailableFloor)
        return
    expected = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "array": tuple,
        "object": dict if "additionalProperties" in schema else Model,
    }[schema["type"]]
    if is_moment(schema):
        assert kind is AwareDatetime
    elif expected is tuple:
        parts = [part for part in typing.get_args(field.annotation) if part is not type(None)]
        assert typing.get_origin(field.annotation) is tuple or typing.get_origin(parts[0]) is tuple
    else:
        assert issubclass(typing.get_origin(kind) or kind, expected)


@each_pair
def test_every_field_is_described(pair: Pair) -> None:
    lacking = [name for name, part in properties(pair.schema).items() if not part.get("description")]
    assert lacking == []


def test_the_phases_are_listed_in_their_order_wherever_they_are() -> None:
    status = properties(schema_of("diskmigrations"))["status"]["properties"]
    order = [phase.value for phase in Phase]
    assert status["phase"]["enum"] == order
    assert status["failure"]["properties"]["phase"]["enum"] == order


@pytest.mark.parametrize("plural", ["diskmigrations", "libvirthosts", "storagedomains"])
def test_a_new_status_is_never_called_current(plural: str) -> None:
    default = properties(schema_of(plural))["status"]["default"]
    assert default == {"observedGeneration": -1}
