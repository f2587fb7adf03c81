"""What was stored before fields were renamed is there under the new names, by the script that the docs name."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diskmigration.api.disk_migration import DiskMigration
from testbed.binaries import control_plane_binaries
from testbed.control_plane import ControlPlane, running_control_plane
from tests.integration.upgrade.conftest import FIRST, install, objects_of, store

SCRIPT = Path(__file__).parents[3] / "deploy" / "upgrade" / "rename_fields.py"
RUNNING = ("vms", "largest")


@pytest.fixture
def first(scratch: Path) -> Iterator[ControlPlane]:
    """A control plane with the objects of the version whose fields had other names."""
    with running_control_plane(scratch / "first-control-plane") as running:
        install(running, FIRST)
        for body in objects_of(FIRST):
            store(running, body)
        yield running


def run(control_plane: ControlPlane, saved: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(control_plane.environment())
    environment["PATH"] = f"{control_plane_binaries().kubectl.parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(saved)], env=environment, capture_output=True, text=True, check=False
    )


def migrations(control_plane: ControlPlane) -> dict[str, dict[str, Any]]:
    printed = control_plane.kubectl("get", "diskmigrations", "--all-namespaces", "--output=json")
    return {body["metadata"]["name"]: body for body in json.loads(printed)["items"]}


def with_old_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name.replace("storageDomainName", "storageDomain"): with_old_names(each) for name, each in value.items()
        }
    return [with_old_names(each) for each in value] if isinstance(value, list) else value


@pytest.mark.nightly
def test_objects_are_moved_to_the_new_names(first: ControlPlane, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    before = migrations(first)

    refused = run(first, saved)
    assert refused.returncode == 1
    assert "These migrations run: vms/largest. Nothing was changed" in refused.stderr
    assert migrations(first) == before
    assert not saved.exists()

    namespace, name = RUNNING
    patch = json.dumps({"status": {"phase": "Succeeded"}})
    named = ("diskmigration", name, f"--namespace={namespace}")
    first.kubectl("patch", *named, "--subresource=status", "--type=merge", f"--patch={patch}")
    before = migrations(first)
    ended = run(first, saved)
    assert ended.returncode == 0, ended.stderr
    first.install_manifests()

    after = migrations(first)
    assert after.keys() == before.keys()
    for migration, body in after.items():
        assert DiskMigration.from_wire(body).spec.destination.storage_domain_name
        for part in ("spec", "status"):
            assert with_old_names(body[part]) == before[migration][part], f"{migration}: its {part} is another one"
    kinds = first.kubectl("api-resources", "--api-group=diskmigration.dev", "--output=name").split()
    assert "hypervisors.diskmigration.dev" not in kinds

    # As after an interruption: what is there already stays as it is.
    uids = {migration: body["metadata"]["uid"] for migration, body in after.items()}
    again = run(first, saved)
    assert again.returncode == 0, again.stderr
    assert {migration: body["metadata"]["uid"] for migration, body in migrations(first).items()} == uids
