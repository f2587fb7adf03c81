"""A control plane as the previous version left it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.control_plane import ControlPlane, running_control_plane

NAMESPACE = "vms"
FIRST = Path(__file__).parent / "first"
PREVIOUS = Path(__file__).parent / "previous"
PREVIOUS_PROGRAMS = PREVIOUS / "diskmigration-0.1.0-py3-none-any.whl"


def install(control_plane: ControlPlane, version: Path) -> None:
    """An older version's CRDs, accounts and roles, as its README said: by server-side apply."""
    control_plane.kubectl("apply", "--server-side", f"--filename={version / 'manifests.yaml'}")
    names = control_plane.kubectl("get", "customresourcedefinitions", "--output=name").split()
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    control_plane.kubectl("create", "namespace", NAMESPACE)


def objects_of(version: Path) -> list[dict[str, Any]]:
    """What was stored then."""
    return list(yaml.safe_load_all((version / "objects.yaml").read_text()))


def store(control_plane: ControlPlane, body: dict[str, Any]) -> None:
    """Stores an object as its user applied it, and its status as the programs wrote it."""
    applied = {field: value for field, value in body.items() if field != "status"}
    control_plane.kubectl("apply", "--filename=-", "--validate=strict", stdin=json.dumps(applied))
    if "status" in body:
        options = ("--server-side", "--subresource=status", "--field-manager=previous", "--force-conflicts")
        control_plane.kubectl("apply", *options, "--filename=-", stdin=json.dumps(body))


@pytest.fixture
def previous(scratch: Path) -> Iterator[ControlPlane]:
    """A control plane of its own, as the schemas that all others use are replaced on it."""
    with running_control_plane(scratch / "control-plane") as running:
        install(running, PREVIOUS)
        yield running
