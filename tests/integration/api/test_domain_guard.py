"""A StorageDomain that is in use is not deleted without force, as the real API server judges it."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from diskmigration.api import names
from testbed.control_plane import ControlPlane
from testbed.processes import TestbedError
from tests.integration.api.manifests import domain
from tests.integration.user import User
from tests.waiting import wait_until

FORCE = "diskmigration.dev/delete-in-use"
GUESTS = [f"web-{number}" for number in range(1, 6)]

Make = Callable[..., str]


@pytest.fixture
def make(user: User) -> Iterator[Make]:
    """Makes a StorageDomain with a status, perhaps annotated to be deleted in use; returns its name."""
    made: list[str] = []

    def act(status: dict[str, Any] | None = None, *, force: str | None = None) -> str:
        name = f"guarded-{uuid.uuid4().hex[:8]}"
        manifest = domain(name, loop={"path": "/srv/guarded"})
        if force is not None:
            manifest["metadata"]["annotations"] = {FORCE: force}
        user.apply(manifest)
        made.append(name)
        if status is not None:
            user.patch(names.STORAGE_DOMAINS, name, {"status": status}, subresource="status")
        return name

    yield act
    for name in made:
        user_deletes_by_force(user, name)


@pytest.fixture(scope="module", autouse=True)
def _guard_is_in_force(user: User) -> None:
    name = f"guarded-{uuid.uuid4().hex[:8]}"
    manifest = domain(name, loop={"path": "/srv/guarded"})

    def is_refused() -> bool:
        user.apply(manifest)
        user.patch(names.STORAGE_DOMAINS, name, {"status": {"inUse": {"migrations": 1}}}, subresource="status")
        try:
            user.delete(names.STORAGE_DOMAINS, name)
        except TestbedError:
            return True
        return False

    wait_until(is_refused, "the policy is in force")
    user_deletes_by_force(user, name)


def user_deletes_by_force(user: User, name: str) -> None:
    try:
        user.patch(names.STORAGE_DOMAINS, name, {"metadata": {"annotations": {FORCE: "true"}}})
    except TestbedError:
        return  # it is deleted
    user.delete(names.STORAGE_DOMAINS, name)


def is_gone(control_plane: ControlPlane, name: str) -> bool:
    return not control_plane.kubectl("get", "sd", name, "--ignore-not-found", "--output=name")


@pytest.mark.parametrize(
    "status",
    [
        None,
        {"readyNodes": 1},
        {"inUse": {}},
        {"inUse": {"migrations": 0, "thinVolumes": 0, "virtualMachines": []}},
    ],
    ids=["no status", "a status without counts", "an empty count", "counts of nothing"],
)
def test_what_is_not_in_use_is_deleted(control_plane: ControlPlane, make: Make, status: dict[str, Any] | None) -> None:
    name = make(status)
    control_plane.kubectl("delete", "sd", name)
    assert is_gone(control_plane, name)


@pytest.mark.parametrize("force", [None, "false", ""])
def test_thin_volumes_of_running_vms_keep_it(control_plane: ControlPlane, make: Make, force: str | None) -> None:
    status = {"inUse": {"thinVolumes": 2, "virtualMachines": ["web-1", "db-1"]}}
    name = make(status, force=force)
    with pytest.raises(TestbedError) as refused:
        control_plane.kubectl("delete", "sd", name)
    message = str(refused.value)
    assert f"StorageDomain {name} is in use: running VMs have 2 thin volumes in it (web-1, db-1). " in message
    assert "diskmigration.dev/delete-in-use=true" in message
    assert not is_gone(control_plane, name)


def test_only_the_first_vms_are_named(control_plane: ControlPlane, make: Make) -> None:
    name = make({"inUse": {"thinVolumes": 70, "virtualMachines": GUESTS}})
    with pytest.raises(TestbedError, match=r"70 thin volumes in it \(web-1, web-2, web-3, web-4, web-5, \.\.\.\)"):
        control_plane.kubectl("delete", "sd", name)


def test_active_migrations_keep_it(control_plane: ControlPlane, make: Make) -> None:
    name = make({"inUse": {"thinVolumes": 0, "migrations": 3}})
    with pytest.raises(TestbedError, match="3 migrations read from it or write to it"):
        control_plane.kubectl("delete", "sd", name)


def test_all_at_once_are_judged_each(control_plane: ControlPlane, make: Make) -> None:
    used, free = make({"inUse": {"thinVolumes": 1, "virtualMachines": ["web-1"]}}), make()
    control_plane.kubectl("label", "sd", used, free, f"batch={used}")
    with pytest.raises(TestbedError, match="is in use"):
        control_plane.kubectl("delete", "sd", f"--selector=batch={used}")
    assert not is_gone(control_plane, used)


def test_it_is_deleted_by_force(control_plane: ControlPlane, make: Make) -> None:
    name = make({"inUse": {"thinVolumes": 1, "virtualMachines": ["web-1"], "migrations": 1}})
    control_plane.kubectl("annotate", "sd", name, f"{FORCE}=true")
    control_plane.kubectl("delete", "sd", name)
    assert is_gone(control_plane, name)
