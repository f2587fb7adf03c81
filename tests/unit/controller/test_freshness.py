"""What tells a restored etcd from news that come late."""

from typing import Any

import pytest

from diskmigration.controller.freshness import StoreWentBackError, require_no_step_back
from diskmigration.controller.state import ControllerState, Wake
from tests.unit.controller.builders import domain_body, host_body, migration_body

BODIES = {
    "domain": domain_body("a"),
    "host": host_body("n1", []),
    "migration": migration_body("active"),
    "finished": migration_body("finished", spec={"ttlSecondsAfterFinished": 9}, status={"phase": "Failed"}),
    "let go": migration_body("let-go", status={"phase": "Failed", "observedGeneration": 1}),
}


def versioned(body: dict[str, Any], version: int, *, uid: str = "") -> dict[str, Any]:
    metadata = {**body["metadata"], "resourceVersion": str(version)}
    return {**body, "metadata": {**metadata, "uid": uid} if uid else metadata}


def books_of(version: int) -> ControllerState:
    state = ControllerState(
        system_namespace="system", wake=Wake(migration=lambda _key: None, domain=lambda _name: None)
    )
    state.observe_domain(versioned(BODIES["domain"], version))
    state.observe_host(versioned(BODIES["host"], version))
    for name in ("migration", "finished", "let go"):
        state.observe_migration(versioned(BODIES[name], version))
    return state


@pytest.mark.parametrize("name", BODIES)
def test_an_object_that_is_older_than_it_was_before_it_was_asked_for_is_of_a_restored_store(name: str) -> None:
    versions = books_of(100).versions()
    for version in (100, 101):
        require_no_step_back(versions, versioned(BODIES[name], version))
    require_no_step_back(versions, versioned(BODIES[name], 1, uid="another"))
    with pytest.raises(StoreWentBackError, match=BODIES[name]["metadata"]["name"]):
        require_no_step_back(versions, versioned(BODIES[name], 99))


@pytest.mark.parametrize("name", ["domain", "host", "migration"])
def test_nor_does_an_object_come_back_that_was_deleted(name: str) -> None:
    state = books_of(100)
    body = BODIES[name]
    match name:
        case "domain":
            state.forget_domain("a", body["metadata"]["uid"])
        case "host":
            state.forget_host("n1", body["metadata"]["uid"])
        case _:
            state.forget_migration("vms/active", body["metadata"]["uid"])
    with pytest.raises(StoreWentBackError):
        require_no_step_back(state.versions(), versioned(body, 200))


def test_what_is_observed_while_it_is_asked_for_counts_for_the_next_time() -> None:
    state = books_of(100)
    versions = state.versions()
    state.observe_migration(versioned(BODIES["migration"], 120))
    require_no_step_back(versions, versioned(BODIES["migration"], 110))
    with pytest.raises(StoreWentBackError):
        require_no_step_back(state.versions(), versioned(BODIES["migration"], 110))


@pytest.mark.parametrize("name", ["domain", "host"])
def test_a_deletion_that_is_told_late_does_not_forget_the_one_that_has_the_name_now(name: str) -> None:
    state = books_of(100)
    new = versioned(BODIES[name], 120, uid="new")
    if name == "domain":
        state.observe_domain(new)
        state.forget_domain("a", BODIES[name]["metadata"]["uid"])
        assert state.inventory.domain("a") is not None
    else:
        state.observe_host(new)
        state.forget_host("n1", BODIES[name]["metadata"]["uid"])
        assert state.inventory.host_metadata("n1") is not None
    assert state.versions()["new"] == 120
