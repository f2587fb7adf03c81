"""The door to the Kubernetes API against the real server."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from diskmigration.api import names
from diskmigration.api.model import ObjectMeta
from diskmigration.cluster import events, leases
from diskmigration.cluster.client import Cluster, connect
from diskmigration.cluster.errors import ClusterUnavailableError, ConflictError, ObjectGoneError, RefusedError
from testbed.control_plane import ControlPlane
from testbed.processes import TestbedError
from tests.integration.controller.world import World, connect_admin
from tests.waiting import wait_until

OPERATOR, AGENT = names.OPERATOR_FIELD_MANAGER, names.AGENT_FIELD_MANAGER


def condition(kind: str, status: str, reason: str = "Because") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def made(world: World, name: str = "m") -> ObjectMeta:
    body = world.migrate(name, "vm").body()
    assert body is not None
    return ObjectMeta.from_wire(body["metadata"])


def nobody(control_plane: ControlPlane, world: World) -> Cluster:
    """An account without any right."""
    control_plane.kubectl("create", "serviceaccount", "nobody", f"--namespace={world.namespace()}")
    return connect(control_plane.account_kubeconfig(world.namespace(), "nobody"))


def write(
    cluster: Cluster,
    metadata: ObjectMeta,
    status: dict[str, Any],
    manager: str,
    resource_version: str = "",
    *,
    seen_version: str = "",
) -> dict[str, Any]:
    body = cluster.apply_status(
        names.DISK_MIGRATIONS,
        metadata.name,
        status,
        namespace=metadata.namespace,
        uid=metadata.uid,
        field_manager=manager,
        resource_version=resource_version,
        seen_version=seen_version,
    )
    found: dict[str, Any] = body["status"]
    return found


def test_two_managers_share_a_status(admin: Cluster, world: World) -> None:
    metadata = made(world)
    write(
        admin,
        metadata,
        {
            "phase": "Scheduled",
            "nodeName": "n1",
            "conditions": [condition("Accepted", "True"), condition("Ready", "False")],
        },
        OPERATOR,
    )
    status = write(
        admin,
        metadata,
        {"phase": "Replicating", "attempts": 1, "conditions": [condition("Ready", "False", "Busy")]},
        AGENT,
    )
    assert (status["phase"], status["nodeName"]) == ("Replicating", "n1")
    status = write(
        admin, metadata, {"nodeName": "n1", "conditions": [condition("Accepted", "True", "Again")]}, OPERATOR
    )
    assert (status["phase"], status["attempts"]) == ("Replicating", 1)
    assert {one["type"]: one["reason"] for one in status["conditions"]} == {"Accepted": "Again", "Ready": "Busy"}


def test_what_its_only_manager_leaves_out_is_removed(admin: Cluster, world: World) -> None:
    metadata = made(world)
    write(admin, metadata, {"phase": "Pending", "queuePosition": 4}, OPERATOR)
    assert "queuePosition" not in write(admin, metadata, {"phase": "Scheduled"}, OPERATOR)


def test_an_object_made_anew_under_the_name_is_never_written(admin: Cluster, world: World) -> None:
    old = made(world)
    admin.delete(names.DISK_MIGRATIONS, old.name, old.namespace, uid=old.uid)
    with pytest.raises(ObjectGoneError):
        write(admin, old, {"phase": "Failed"}, OPERATOR)
    new = made(world)
    assert new.uid != old.uid
    with pytest.raises(ObjectGoneError):
        write(admin, old, {"phase": "Failed"}, OPERATOR)
    with pytest.raises(ObjectGoneError):
        admin.add_finalizer(names.DISK_MIGRATIONS, old, names.FINALIZER)
    admin.delete(names.DISK_MIGRATIONS, old.name, old.namespace, uid=old.uid)
    body = admin.get(names.DISK_MIGRATIONS, new.name, new.namespace)
    assert body is not None
    assert body["metadata"]["uid"] == new.uid
    assert "phase" not in body["status"]
    assert not body["metadata"].get("finalizers")


def test_a_locked_write_lands_on_what_was_read_or_not_at_all(admin: Cluster, world: World) -> None:
    metadata = made(world)
    write(admin, metadata, {"phase": "Pending"}, OPERATOR, metadata.resource_version)
    with pytest.raises(ConflictError):
        write(admin, metadata, {"phase": "Failed"}, OPERATOR, metadata.resource_version)


def test_a_status_lands_although_others_write_meanwhile(admin: Cluster, world: World) -> None:
    metadata = made(world)
    for number in range(5):
        write(admin, metadata, {"phase": "Replicating", "attempts": number}, AGENT)
        other = connect_admin(world.control_plane)
        write(other, metadata, {"conditions": [condition("Accepted", "True", f"Round{number}")]}, OPERATOR)
    status = write(admin, metadata, {"phase": "Merging", "attempts": 5}, AGENT)
    assert (status["phase"], status["attempts"]) == ("Merging", 5)
    assert status["conditions"][0]["reason"] == "Round4"


def test_a_version_that_was_seen_is_not_asked_for(control_plane: ControlPlane, world: World) -> None:
    metadata = made(world)
    writer = nobody(control_plane, world)
    subject = f"--serviceaccount={world.namespace()}:nobody"
    in_namespace = f"--namespace={world.namespace()}"
    resource = "--resource=diskmigrations.diskmigration.dev/status"
    control_plane.kubectl("create", "role", "writer", "--verb=patch", resource, in_namespace)
    control_plane.kubectl("create", "rolebinding", "writer", "--role=writer", subject, in_namespace)

    def is_granted() -> bool:
        asked = ("auth", "can-i", "patch", "diskmigrations", "--subresource=status", in_namespace)
        try:
            control_plane.kubectl(*asked, f"--as=system:serviceaccount:{world.namespace()}:nobody")
        except TestbedError:
            return False
        return True

    wait_until(is_granted, "the role counts")
    status = write(writer, metadata, {"phase": "PreparingDestination"}, AGENT, seen_version=metadata.resource_version)
    assert status["phase"] == "PreparingDestination"


def test_a_version_that_was_seen_may_be_an_old_one(admin: Cluster, world: World) -> None:
    metadata = made(world)
    write(admin, metadata, {"conditions": [condition("Accepted", "True")]}, OPERATOR)
    other = connect_admin(world.control_plane)
    status = write(other, metadata, {"phase": "PreparingDestination"}, AGENT, seen_version=metadata.resource_version)
    assert (status["phase"], status["conditions"][0]["type"]) == ("PreparingDestination", "Accepted")
    admin.delete(names.DISK_MIGRATIONS, metadata.name, metadata.namespace, uid=metadata.uid)
    made(world)
    another = connect_admin(world.control_plane)
    with pytest.raises(ObjectGoneError):
        write(another, metadata, {"phase": "PreparingDestination"}, AGENT, seen_version=metadata.resource_version)


def test_finalizers_of_others_are_never_lost(admin: Cluster, world: World, control_plane: ControlPlane) -> None:
    stale = made(world)
    control_plane.kubectl(
        "patch",
        "diskmigrations.diskmigration.dev",
        stale.name,
        f"--namespace={stale.namespace}",
        "--type=merge",
        '--patch={"metadata":{"finalizers":["others.example/one"]}}',
    )
    with pytest.raises(ConflictError):
        admin.add_finalizer(names.DISK_MIGRATIONS, stale, names.FINALIZER)
    body = admin.get(names.DISK_MIGRATIONS, stale.name, stale.namespace)
    assert body is not None
    body = admin.add_finalizer(names.DISK_MIGRATIONS, ObjectMeta.from_wire(body["metadata"]), names.FINALIZER)
    assert body["metadata"]["finalizers"] == ["others.example/one", names.FINALIZER]
    left = admin.remove_finalizer(names.DISK_MIGRATIONS, ObjectMeta.from_wire(body["metadata"]), names.FINALIZER)
    assert left is not None
    assert left["metadata"]["finalizers"] == ["others.example/one"]


def test_the_last_finalizer_lets_a_deleted_object_go(admin: Cluster, world: World) -> None:
    metadata = made(world)
    held = ObjectMeta.from_wire(admin.add_finalizer(names.DISK_MIGRATIONS, metadata, names.FINALIZER)["metadata"])
    admin.delete(names.DISK_MIGRATIONS, held.name, held.namespace, uid=held.uid)
    body = admin.get(names.DISK_MIGRATIONS, held.name, held.namespace)
    assert body is not None
    deleting = ObjectMeta.from_wire(body["metadata"])
    assert deleting.deletion_timestamp is not None
    admin.remove_finalizer(names.DISK_MIGRATIONS, deleting, names.FINALIZER)
    assert admin.get(names.DISK_MIGRATIONS, held.name, held.namespace) is None
    assert admin.remove_finalizer(names.DISK_MIGRATIONS, deleting, names.FINALIZER) is None


@pytest.mark.nightly
def test_a_list_longer_than_a_page_is_whole(admin: Cluster, world: World) -> None:
    world.namespace("many")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: world.migrate(f"m{number}", "vm", namespace="many", suspend=True), range(501)))
    found = admin.list(names.DISK_MIGRATIONS, namespace=world.namespace("many"))
    assert {body["metadata"]["name"] for body in found} == {f"m{number}" for number in range(501)}
    assert [len(page) for page in admin.pages(names.DISK_MIGRATIONS, namespace=world.namespace("many"))] == [500, 1]


def test_a_field_selector_is_the_servers(admin: Cluster, world: World) -> None:
    one, _ = made(world, "one"), made(world, "two")
    write(admin, one, {"nodeName": world.name("n1")}, OPERATOR)
    found = admin.list(names.DISK_MIGRATIONS, field_selector=f"status.nodeName={world.name('n1')}")
    assert [body["metadata"]["name"] for body in found] == ["one"]


def test_a_lease_says_who_is_alive_and_since_when(admin: Cluster, world: World) -> None:
    node = world.name("n1")
    leases.renew_lease(admin, names.SYSTEM_NAMESPACE, node, holder=node, duration_seconds=40)
    first = leases.list_leases(admin, names.SYSTEM_NAMESPACE)[node]
    leases.renew_lease(admin, names.SYSTEM_NAMESPACE, node, holder=node, duration_seconds=40)
    second = leases.list_leases(admin, names.SYSTEM_NAMESPACE)[node]
    assert (second.holder, second.duration_seconds) == (node, 40)
    assert second.renew_time > first.renew_time


def test_a_node_is_told_by_its_uid_and_labels(admin: Cluster, world: World, control_plane: ControlPlane) -> None:
    control_plane.create_node(world.name("labelled"), {"rack": "7"})
    found = admin.get_node(world.name("labelled"))
    assert found is not None
    assert found[0]
    assert found[1]["rack"] == "7"
    assert admin.get_node(world.name("nowhere")) is None


def test_an_event_is_told_to_who_describes_the_object(
    admin: Cluster, world: World, control_plane: ControlPlane
) -> None:
    metadata = made(world)
    events.record_event(
        admin,
        events.Reporter("diskmigration.dev/test", "here"),
        events.Event(
            names.DISK_MIGRATIONS,
            metadata,
            reason="Tried",
            note="ä" * 2000,
            action="Try",
            event_type=events.EventType.WARNING,
        ),
    )
    said = wait_until(
        lambda: json.loads(
            control_plane.kubectl(
                "get",
                "events",
                f"--namespace={metadata.namespace}",
                "--output=json",
                f"--field-selector=involvedObject.uid={metadata.uid}",
            )
        )["items"],
        "the event",
    )
    assert (said[0]["reason"], said[0]["type"]) == ("Tried", "Warning")


def test_rights_and_rules_refuse_with_the_servers_words(control_plane: ControlPlane, world: World) -> None:
    metadata = made(world)
    account = nobody(control_plane, world)
    with pytest.raises(RefusedError, match="cannot get"):
        write(account, metadata, {"phase": "Failed"}, OPERATOR)
    with pytest.raises(RefusedError, match="cannot list"):
        account.list(names.DISK_MIGRATIONS)


def test_an_event_that_may_not_be_written_stops_nobody(
    control_plane: ControlPlane, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    account = nobody(control_plane, world)
    reporter = events.Reporter("diskmigration.dev/test", "here")
    tried = events.Event(names.DISK_MIGRATIONS, made(world), reason="Tried", note="", action="Try")
    events.record_event(account, reporter, tried)
    assert "an Event was lost" in caplog.text


def test_without_a_server_there_is_no_answer(control_plane: ControlPlane, tmp_path: Any) -> None:
    config = json.loads(control_plane.admin_kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    with pytest.raises(ClusterUnavailableError, match="no answer"):
        connect(path).list(names.LIBVIRT_HOSTS)


def test_without_credentials_it_says_what_to_give(tmp_path: Any) -> None:
    with pytest.raises(ClusterUnavailableError, match="--kubeconfig"):
        connect(tmp_path / "missing")
