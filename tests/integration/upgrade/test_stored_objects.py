"""What was stored before an upgrade is there after it, unchanged, valid and readable."""

import json
from typing import Any

import pytest

from diskmigration.api.disk_migration import DiskMigration
from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.api.storage_domain import StorageDomain
from testbed.control_plane import ControlPlane
from tests.integration.upgrade.conftest import PREVIOUS, objects_of, store

MODELS = {"DiskMigration": DiskMigration, "StorageDomain": StorageDomain, "LibvirtHost": LibvirtHost}


def stored(control_plane: ControlPlane) -> dict[str, dict[str, Any]]:
    """Every object of the project, by kind and name."""
    kinds = ",".join(f"{kind}.diskmigration.dev" for kind in MODELS)
    printed = control_plane.kubectl("get", kinds, "--all-namespaces", "--output=json", "--show-managed-fields")
    return {f"{body['kind']} {body['metadata']['name']}": body for body in json.loads(printed)["items"]}


@pytest.mark.nightly
def test_stored_objects_outlive_the_upgrade(previous: ControlPlane) -> None:
    objects = objects_of(PREVIOUS)
    for body in objects:
        store(previous, body)
    before = stored(previous)
    assert len(before) == len(objects)

    previous.install_manifests()

    after = stored(previous)
    assert after.keys() == before.keys()
    for key, body in after.items():
        for part in ("spec", "status"):
            # More may be there: defaults of what is new.
            assert _contains(body.get(part, {}), before[key].get(part, {})), f"{key}: its {part} is another one"
        MODELS[body["kind"]].from_wire(body)
        # The new schema takes it, and an update of it, as it is.
        for subresource in ([], ["--subresource=status"]):
            previous.kubectl("replace", "--dry-run=server", *subresource, "--filename=-", stdin=json.dumps(body))
    for body in objects:
        # As GitOps does for ever.
        again = {name: part for name, part in body.items() if name != "status"}
        said = previous.kubectl("apply", "--filename=-", "--validate=strict", stdin=json.dumps(again))
        assert said.strip().endswith(" unchanged"), said


def _contains(after: Any, before: Any) -> bool:
    if isinstance(before, dict):
        return isinstance(after, dict) and all(
            name in after and _contains(after[name], before[name]) for name in before
        )
    if isinstance(before, list):
        return isinstance(after, list) and len(after) == len(before) and all(map(_contains, after, before))
    return bool(after == before)
