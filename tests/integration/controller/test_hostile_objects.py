"""Objects that nobody would write: each is refused, or the operator says what it thinks of it, and no log has a defect.

That the operator's log has none is asserted at the end of its fixture.
"""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from diskmigration.api import names
from diskmigration.api.disk_migration import read_status
from diskmigration.cluster.errors import ClusterUnavailableError, RefusedError
from tests.integration.controller.conftest import Operator
from tests.integration.controller.world import Handle, World
from tests.waiting import wait_until

# One world for all examples: each has names of its own. To shrink would make thousands of objects.
together = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

MIGRATION = {
    "virtualMachine": {"name": "web-1", "uuid": "0f6c0f1a-6f5e-4a41-8c1c-2b0c9b1f7c11", "nodeName": "node-a"},
    "disk": "vda",
    "destination": {"storageDomainName": "nfs", "format": "qcow2", "provisioning": "Thin"},
    "backingChain": "Flatten",
    "strategy": "Snapshot",
    "copyMode": "Background",
    "bandwidth": "200Mi",
    "cutover": {"policy": "Manual", "notBefore": "2026-12-01T02:00:00Z"},
    "suspend": False,
    "cancel": False,
    "sourceVolumes": "Delete",
    "progressTimeoutSeconds": 900,
    "activeDeadlineSeconds": 3600,
    "backoffLimit": 3,
    "ttlSecondsAfterFinished": 3600,
}
DOMAIN = {
    "loop": {"path": "/srv/odd"},
    "thinProvisioning": {"highWatermark": "512Mi", "chunkSize": "1Gi", "replicationChunkSize": 2147483648},
    "nodeSelector": {"example.org/rack": "7"},
    "allowedNamespaces": ["*", "vms"],
    "maxConcurrentMigrations": 4,
}
STATUS = {
    "observedGeneration": 1,
    "phase": "Replicating",
    "conditions": [
        {"type": "Accepted", "status": "True", "reason": "R", "lastTransitionTime": "2026-12-01T02:00:00Z"},
        {"type": "Ready", "status": "False", "reason": "R", "lastTransitionTime": "2026-12-01T02:00:00Z"},
    ],
    "startTime": "2026-12-01T02:00:00Z",
    "completionTime": "2026-12-01T02:00:00Z",
    "attempts": 1,
    "queuePosition": 1,
    "allocatedBytes": 1,
    "progress": {"copiedBytes": 1, "percent": 1, "estimatedCompletionTime": "2026-12-01T02:00:00Z"},
    "effective": {"bandwidthBytesPerSecond": 1, "format": "qcow2"},
    "source": {
        "storageDomainName": "a",
        "type": "File",
        "volumes": [{"name": "v", "role": "Active", "path": "/v", "format": "qcow2", "sizeBytes": 1}],
    },
    "destination": {"storageDomainName": "b", "type": "Block"},
    "failure": {"reason": "CopyFailed", "message": "", "phase": "Pending"},
    "display": {"progress": "1%"},
}
LIBVIRT_HOST = {
    "libvirtVersion": "9.0.0",
    "virtualMachineCount": 1,
    "conditions": STATUS["conditions"],
    "storageDomains": [
        {
            "name": "a",
            "ready": True,
            "capacityBytes": 1,
            "volumeGroup": {"uuid": "u", "lockType": "none"},
            "orphanedVolumes": [{"name": "o", "sizeBytes": 1}],
        }
    ],
    "virtualMachines": [
        {
            "name": "web-1",
            "uuid": "0f6c",
            "state": "Running",
            "disks": [{"target": "vda", "type": "File", "storageDomainName": "a", "capacityBytes": 1}],
        }
    ],
}

odd_texts = st.sampled_from(
    [
        *("", " ", "\x00", "a\nb", "\u202e\ufeff\U0001f600", "../../etc", "--all", "x" * 300, "$(reboot)", "null", "*"),
        *(
            "1e999999999",
            "0.1",
            "1.5",
            "65536.5",
            "64Ki",
            "1Ti",
            "-0",
            "+1Mi",
            "1e3",
            "9" * 31,
            "99999m",
            "NaN",
            "0x10",
        ),
        *("2026-02-30T00:00:00Z", "2026-12-01T02:00:00", "2026-12-01T02:00:00+99:00", "1000-01-01T00:00:00+23:59"),
        *("9999-12-31T23:59:59-23:59", "2026-12-01T02:00:60Z", "0000-00-00T00:00:00Z", "2026-12-01t02:00:00.1z"),
    ]
)
odd_numbers = st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 65536, 2**40, 2**40 + 1, 0.5, 1e300])
odd_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_texts | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=4,
)


@st.composite
def mutants(draw: st.DrawFn, whole: dict[str, Any], *, at_most: int = 2) -> dict[str, Any]:
    """What is plausible, with fields left out and a few of them odd, or with one that nobody knows."""
    kept: dict[str, Any] = json.loads(json.dumps(whole))
    for name in draw(st.sets(st.sampled_from(sorted(set(kept) - {"virtualMachine", "disk"})), max_size=4)):
        del kept[name]
    for _ in range(draw(st.integers(0, at_most))):
        place: Any = kept
        while True:
            keys = list(range(len(place))) if isinstance(place, list) else [*place, "unknown"]
            key = draw(st.sampled_from(keys))
            inner = place[key] if isinstance(place, list) else place.get(key)
            if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
                place[key] = draw(odd_values)
                break
            place = inner
    return kept


def made(world: World, plural: str, kind: str, name: str, body: dict[str, Any], *, namespace: str = "") -> bool:
    """Whether the server took the object; else it was refused for what it says, and nothing was stored."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    try:
        world.admin.create(
            plural,
            {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, **body},
            namespace=namespace,
        )
    except RefusedError as error:
        assert error.http_status in (400, 422), error  # noqa: PT017 - what is taken raises nothing
        assert re.search(r"spec|decode|unmarshal|strict", str(error)), error  # noqa: PT017 - as above
        return False
    return True


numbers = iter(range(10**6))


@given(st.lists(mutants(MIGRATION), min_size=8, max_size=8))
@together
def test_a_migration_is_refused_or_gets_a_status(operator: Operator, world: World, specs: list[dict[str, Any]]) -> None:
    namespace = world.namespace()
    handles = [Handle(world, namespace, f"odd-{next(numbers)}") for _ in specs]
    taken = [
        handle
        for handle, spec in zip(handles, specs, strict=True)
        if made(world, names.DISK_MIGRATIONS, "DiskMigration", handle.name, {"spec": spec}, namespace=namespace)
    ]
    wait_until(lambda: all(handle.condition("Accepted") for handle in taken), "each has a status", seconds=10)


@pytest.mark.nightly
@given(st.lists(mutants(DOMAIN), min_size=8, max_size=8))
@together
def test_a_storage_domain_is_refused_or_gets_a_status(
    operator: Operator, world: World, specs: list[dict[str, Any]]
) -> None:
    taken = []
    try:
        for spec in specs:
            name = f"odd-{next(numbers)}"
            if made(world, names.STORAGE_DOMAINS, "StorageDomain", name, {"spec": spec}):
                taken.append(name)
        wait_until(
            lambda: all((world.admin.get(names.STORAGE_DOMAINS, name) or {}).get("status") for name in taken),
            "each has a status",
            seconds=10,
        )
    finally:
        for name in taken:
            body = world.admin.get(names.STORAGE_DOMAINS, name)
            assert body is not None
            world.admin.delete(names.STORAGE_DOMAINS, name, uid=body["metadata"]["uid"])


def write_status(world: World, plural: str, body: dict[str, Any], status: dict[str, Any]) -> bool:
    """Whether the server took the status, as an administrator writes it."""
    metadata = body["metadata"]
    try:
        world.admin.apply_status(
            plural,
            metadata["name"],
            status,
            namespace=metadata.get("namespace", ""),
            uid=metadata["uid"],
            field_manager="kubectl-edit",
        )
    except RefusedError as error:
        assert error.http_status in (400, 422), error  # noqa: PT017 - what is taken raises nothing
        return False
    except ClusterUnavailableError as error:
        # The server's own word for a list whose items lack their key.
        assert "failed to create typed patch object" in str(error), error  # noqa: PT017 - as above
        return False
    return True


@pytest.mark.nightly
@given(st.lists(mutants(STATUS, at_most=3), min_size=4, max_size=4))
@together
def test_a_status_that_is_written_by_hand_is_survived(
    operator: Operator, world: World, written: list[dict[str, Any]]
) -> None:
    for status in written:
        handle = world.migrate(f"odd-{next(numbers)}", "web-1", suspend=True)
        handle.until_accepted("Unknown", "Suspended")
        body = handle.body()
        assert body is not None
        write_status(world, names.DISK_MIGRATIONS, body, status)
        read_status(handle.status())
        # An object whose status nobody can make sense of can still be deleted.
        handle.delete()
        handle.until_gone()


@pytest.mark.nightly
@given(st.lists(mutants(LIBVIRT_HOST, at_most=3), min_size=4, max_size=4))
@together
def test_a_libvirt_host_that_is_written_by_hand_is_survived(
    operator: Operator, world: World, written: list[dict[str, Any]]
) -> None:
    body = world.admin.apply(names.LIBVIRT_HOSTS, world.node("odd", []), {}, field_manager="kubectl-edit")
    for status in written:
        write_status(world, names.LIBVIRT_HOSTS, body, status)
    world.migrate(f"odd-{next(numbers)}", "no-such-vm").until_phase("Failed")
