"""The manifests as `kubectl apply --server-side -k deploy/base` brings them to an API server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.control_plane import ControlPlane

BASE = "--kustomize=deploy/base"


@pytest.fixture(autouse=True)
def at_the_root_of_the_checkout(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    monkeypatch.chdir(pytestconfig.rootpath)


def installed(control_plane: ControlPlane) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        control_plane.kubectl("get", BASE, "--output=json", "--show-managed-fields")
    )["items"]
    return found


def test_applying_the_manifests_again_changes_nothing(control_plane: ControlPlane) -> None:
    before = installed(control_plane)
    control_plane.kubectl("apply", "--server-side", BASE)
    assert before != []
    assert installed(control_plane) == before


def test_every_definition_is_served_and_structural(control_plane: ControlPlane) -> None:
    definitions = [each for each in installed(control_plane) if each["kind"] == "CustomResourceDefinition"]
    assert definitions != []
    for definition in definitions:
        conditions = {each["type"]: each["status"] for each in definition["status"]["conditions"]}
        assert conditions["Established"] == "True", definition["metadata"]["name"]
        assert conditions["NamesAccepted"] == "True", definition["metadata"]["name"]
        # Only there where it is so: the server would then neither drop unknown fields nor fill in defaults.
        assert conditions.get("NonStructuralSchema", "False") == "False", definition["metadata"]["name"]


def test_the_lists_of_a_status_have_one_writer_each_but_for_the_conditions(control_plane: ControlPlane) -> None:
    # Of a map the server keeps who owns each field of each item, which more than doubles what a large one costs it.
    for definition in installed(control_plane):
        if definition["kind"] == "CustomResourceDefinition":
            [version] = definition["spec"]["versions"]
            status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
            kinds = dict(lists(status, definition["metadata"]["name"]))
            assert kinds != {}
            for path, kind in kinds.items():
                assert kind == ("map" if path.endswith(".conditions") else "atomic"), path


def lists(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """The path and the list type of each list in a schema."""
    if schema["type"] == "array":
        yield path, schema.get("x-kubernetes-list-type", "atomic")
        yield from lists(schema["items"], path)
    for name, field in schema.get("properties", {}).items():
        yield from lists(field, f"{path}.{name}")
