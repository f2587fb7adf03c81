"""The CRDs and the roles as the real API server takes them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from diskmigration.api import names
from diskmigration.cluster import resources
from testbed.control_plane import ControlPlane
from tests.integration.user import User, user_of

Apply = Callable[..., dict[str, Any]]

NAMESPACE = "api-tests"


@pytest.fixture(scope="session")
def namespace(control_plane: ControlPlane) -> str:
    control_plane.kubectl("create", "namespace", NAMESPACE)
    return NAMESPACE


@pytest.fixture(scope="session")
def user(control_plane: ControlPlane) -> User:
    """The administrator, as one who writes."""
    return user_of(control_plane.admin_kubeconfig)


@pytest.fixture
def apply(user: User, namespace: str) -> Iterator[Apply]:
    """Applies a manifest and returns the object; what was made is removed after the test."""
    made: list[tuple[str, str, str]] = []

    def act(manifest: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        [plural] = [known.plural for known in resources.BY_PLURAL.values() if known.kind == manifest["kind"]]
        place = namespace if plural == names.DISK_MIGRATIONS else ""
        metadata = {**manifest["metadata"], **({"namespace": place} if place else {})}
        made.append((plural, metadata["name"], place))
        return user.apply({**manifest, "metadata": metadata}, dry_run=dry_run)

    yield act
    for each in dict.fromkeys(made):
        user.delete(*each)
