"""The CRDs and the roles as the real API server takes them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testbed.control_plane import ControlPlane

Apply = Callable[..., dict[str, Any]]

NAMESPACE = "api-tests"


@pytest.fixture(scope="session")
def namespace(control_plane: ControlPlane) -> str:
    control_plane.kubectl("create", "namespace", NAMESPACE)
    return NAMESPACE


@pytest.fixture
def apply(control_plane: ControlPlane, namespace: str) -> Iterator[Apply]:
    """Applies a manifest and returns the object; what was made is removed after the test."""
    made: list[tuple[str, str]] = []

    def act(manifest: dict[str, Any], *options: str) -> dict[str, Any]:
        options = ("--server-side", f"--namespace={namespace}", "--force-conflicts", *options)
        printed = control_plane.kubectl("apply", *options, "--filename=-", "--output=json", stdin=json.dumps(manifest))
        made.append((manifest["kind"], manifest["metadata"]["name"]))
        found: dict[str, Any] = json.loads(printed)
        return found

    yield act
    for kind, name in dict.fromkeys(made):
        control_plane.kubectl("delete", kind, name, f"--namespace={namespace}", "--ignore-not-found")
