"""A program that is newer than the CRDs in the cluster says so, and takes no refusal of theirs for an outage."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from diskmigration.api import names
from diskmigration.cluster import schemas
from diskmigration.cluster.client import connect
from diskmigration.cluster.errors import UndeclaredFieldError
from diskmigration.observability.health import Health
from testbed.control_plane import ControlPlane, running_control_plane
from tests.integration.api.manifests import migration
from tests.integration.api.overlays import ROOT
from tests.waiting import wait_until


@pytest.fixture
def older(scratch: Path) -> Iterator[ControlPlane]:
    """A control plane whose CRD of DiskMigrations does not know where a migration stands."""
    [crd] = yaml.safe_load_all((ROOT / "crds" / "diskmigrations.yaml").read_text())
    older = copy.deepcopy(crd)
    schema = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]["properties"]["attempts"]
    del schema["properties"]["status"]["properties"]["progress"]["properties"]["copiedBytes"]
    with running_control_plane(scratch / "control-plane") as running:
        running.kubectl("apply", "--server-side", f"--kustomize={ROOT / 'crds'}")
        running.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump(older))
        running.kubectl("wait", "--for=condition=Established", "--timeout=30s", "customresourcedefinitions", "--all")
        yield running


def test_the_probes_say_what_the_crds_lack_until_they_are_applied(
    older: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "LOOK_SECONDS", 0.5)
    cluster, health = connect(older.admin_kubeconfig), Health()

    def lacking() -> tuple[str, ...]:
        return schemas.unknown_fields(cluster.document(schemas.PATH))

    missing = ("DiskMigration status.progress.copiedBytes", "DiskMigration status.attempts")
    # The server publishes the schemas a moment after it has taken them in.
    wait_until(lambda: set(lacking()) == set(missing), "the older schemas are published")
    schemas.start_comparing(cluster, health)
    [why] = wait_until(health.why_not_ready, "the probes say it")
    assert all(field in why for field in missing)
    assert "Apply the CRDs" in why

    made = cluster.create(names.DISK_MIGRATIONS, migration(), namespace="default")
    with pytest.raises(UndeclaredFieldError, match="apply those of its version"):
        cluster.apply_status(
            names.DISK_MIGRATIONS,
            made["metadata"]["name"],
            {"attempts": 1},
            namespace="default",
            uid=made["metadata"]["uid"],
            field_manager=names.AGENT_FIELD_MANAGER,
        )

    older.kubectl("apply", "--server-side", "--force-conflicts", f"--kustomize={ROOT / 'crds'}")
    wait_until(lambda: not health.why_not_ready(), "the CRDs declare all")
    assert lacking() == ()
