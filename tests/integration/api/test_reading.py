"""What the API server lets pass, the models read, and nothing that is written can hold the server up."""

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from diskmigration.api import names
from diskmigration.api.disk_migration import DiskMigration
from diskmigration.api.storage_domain import StorageDomain
from diskmigration.cluster.client import Cluster, connect
from diskmigration.cluster.errors import RefusedError
from testbed.control_plane import ControlPlane
from tests.integration.api.manifests import domain, migration

LOOP = {"path": "/srv/loopdisks"}
FRACTION = re.compile("not a whole number of bytes")
QUICK_SECONDS = 5.0
"""Far above what a refusal takes, and far below the 34 s after which the server gives a request up."""


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Cluster:
    return connect(control_plane.admin_kubeconfig)


def make(cluster: Cluster, namespace: str, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The object as the server stored it, or None if it refused it. It is removed at once."""
    is_migration = manifest["kind"] == "DiskMigration"
    plural = names.DISK_MIGRATIONS if is_migration else names.STORAGE_DOMAINS
    where = namespace if is_migration else ""
    try:
        made = cluster.create(plural, manifest, namespace=where)
    except RefusedError:
        return None
    cluster.delete(plural, made["metadata"]["name"], where, uid=made["metadata"]["uid"])
    return made


def quantities(count: int) -> list[str | int]:
    """Texts made of what quantities are made of, most of them near the grammar; the same ones in every run."""
    chosen = random.Random(7)  # noqa: S311 - test data

    def number() -> str:
        digits = "".join(chosen.choices("0123456789", k=chosen.randint(1, 9)))
        return (
            chosen.choice(["", "", "", "+", "-"]) + digits + chosen.choice(["", "", "", ".", ".5", ".25", ".0", "_0"])
        )

    suffixes = [
        "",
        "",
        "k",
        "K",
        "Ki",
        "M",
        "Mi",
        "G",
        "Gi",
        "Ti",
        "m",
        "u",
        "n",
        "mi",
        "MB",
        "e3",
        "E3",
        "e+2",
        "e-3",
        " ",
    ]
    return [number() + chosen.choice(suffixes) for _ in range(count)] + [70_000, 2**40, 2**40 + 1, 2**62, -1]


def test_every_bandwidth_that_passes_is_read(cluster: Cluster, namespace: str) -> None:
    passed = refused = 0
    for text in quantities(250):
        made = make(cluster, namespace, migration("reading", bandwidth=text))
        if made is None:
            refused += 1
            continue
        passed += 1
        try:
            bandwidth = DiskMigration.from_wire(made).spec.bandwidth
        except ValidationError as error:
            # The one thing that is left to the operator, which answers InvalidSpec.
            assert FRACTION.search(str(error)), text  # noqa: PT017 - most texts raise nothing
            continue
        assert bandwidth is not None
        assert 2**16 <= bandwidth <= 2**40, text
    # Neither side of the rule was left untried.
    assert passed > 30
    assert refused > 30


MOMENTS = [
    "2026-12-01T02:00:00Z",
    "2026-12-01t02:00:00z",
    "2026-12-01T02:00:00.123456789Z",
    "2026-12-01T02:00:00+23:59",
    "2026-12-01T02:00:00-23:59",
    "1000-01-01T00:00:00+23:59",
    "2999-12-31T23:59:59-23:59",
    "2028-02-29T00:00:00Z",
]
NO_MOMENTS = [
    "2026-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-12-01T24:00:00Z",
    "2026-12-01T23:59:60Z",
    "2026-12-01T02:00:00+99:00",
    "2026-12-01T02:00:00x5Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-12-01 02:00:00Z",
    "2026-12-01",
    "1796090400",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_moment_that_passes_is_read(cluster: Cluster, namespace: str, moment: str) -> None:
    made = make(cluster, namespace, migration("reading", cutover={"notBefore": moment}))
    assert made is not None
    assert DiskMigration.from_wire(made).spec.cutover.not_before is not None


@pytest.mark.parametrize("moment", NO_MOMENTS)
def test_what_is_no_moment_does_not_pass(cluster: Cluster, namespace: str, moment: str) -> None:
    assert make(cluster, namespace, migration("reading", cutover={"notBefore": moment})) is None


@pytest.mark.parametrize(
    "field", ["progressTimeoutSeconds", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit"]
)
@pytest.mark.parametrize("number", [0, 1, 100, 101, 2**31 - 1, 2**31, 2**63 - 1, -1])
def test_every_number_that_passes_is_read(cluster: Cluster, namespace: str, field: str, number: int) -> None:
    manifest = migration("reading", **{field: number})
    made = make(cluster, namespace, manifest)
    try:
        DiskMigration.from_wire({**manifest, "metadata": {"name": "reading", "namespace": namespace}})
        is_readable = True
    except ValidationError:
        is_readable = False
    assert is_readable is (made is not None)


def test_null_is_as_good_as_absent(cluster: Cluster, namespace: str) -> None:
    manifest = migration("reading")
    optional = ["backingChain", "bandwidth", "cutover", "suspend", "cancel", "backoffLimit", "activeDeadlineSeconds"]
    made = make(cluster, namespace, {**manifest, "spec": {**manifest["spec"], **dict.fromkeys(optional)}})
    plain = make(cluster, namespace, manifest)
    assert made is not None
    assert plain is not None
    assert made["spec"] == plain["spec"]
    assert DiskMigration.from_wire(made).spec == DiskMigration.from_wire(plain).spec


HOSTILE = ["1e999999999", "-1e999999999", "1e-999999999", "9e999999999Ki", "9" * 32, "1" + "0" * 30 + "E", "inf", "nan"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_quantity_holds_the_server_up(cluster: Cluster, namespace: str, text: str) -> None:
    sizes = ("highWatermark", "chunkSize", "replicationChunkSize")
    for manifest in (
        migration("hostile", bandwidth=text),
        *(domain("hostile", loop=LOOP, thinProvisioning={size: text}) for size in sizes),
    ):
        begun = time.monotonic()
        with pytest.raises(RefusedError, match=r"must be (a quantity of bytes|between)"):
            cluster.create(
                names.DISK_MIGRATIONS if manifest["kind"] == "DiskMigration" else names.STORAGE_DOMAINS,
                manifest,
                namespace=namespace if manifest["kind"] == "DiskMigration" else "",
            )
        assert time.monotonic() - begun < QUICK_SECONDS


@pytest.mark.parametrize("text", ["1Mi", "64Ti", "1.5Gi", 2**20, 2**46, "1e9", "2000M"])
def test_every_size_that_passes_is_read(cluster: Cluster, namespace: str, text: str | int) -> None:
    made = make(cluster, namespace, domain("reading", loop=LOOP, thinProvisioning={"chunkSize": text}))
    assert made is not None
    assert StorageDomain.from_wire(made).spec.thin_provisioning.chunk_size >= 2**20


def test_the_references_examples_are_taken(control_plane: ControlPlane, namespace: str) -> None:
    reference = (Path(__file__).parents[3] / "docs" / "reference" / "api.md").read_text()
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", reference, re.DOTALL)]
    assert len(examples) == 3
    for example in examples:
        example["metadata"].pop("namespace", None)
        control_plane.kubectl(
            "create", "--dry-run=server", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(example)
        )
