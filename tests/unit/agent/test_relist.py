"""What was deleted while nothing was watched is forgotten, and nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest

from diskmigration.agent.watching import relist
from diskmigration.api.names import DISK_MIGRATIONS, STORAGE_DOMAINS


class Seen:
    """An audience that has seen these objects: uids by name."""

    def __init__(self, domains: dict[str, str], migrations: dict[str, tuple[str, str]]) -> None:
        self.forgotten: list[tuple[str, ...]] = []
        self._domains, self._migrations = domains, migrations

    def storage_domains(self) -> dict[str, str]:
        return self._domains

    def migrations(self) -> dict[str, tuple[str, str]]:
        return self._migrations

    def forget_storage_domain(self, name: str, uid: str) -> None:
        self.forgotten.append((name, uid))

    def forget_migration(self, uid: str) -> None:
        self.forgotten.append((uid,))


def body(name: str, uid: str, namespace: str = "") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "uid": uid}}


def listing(whole: dict[str, list[Any]], single: dict[str, list[Any]]) -> Any:
    """A cluster that lists these, and those when it is asked for one by its name."""

    def answer(plural: str, *, namespace: str = "", field_selector: str = "") -> list[Any]:
        del namespace
        selected, _, value = field_selector.partition("=")
        if selected == "metadata.name":
            return [found for found in single.get(plural, []) if found["metadata"]["name"] == value]
        return whole.get(plural, [])

    return SimpleNamespace(list=answer)


@pytest.mark.parametrize(
    ("listed", "asked", "forgotten"),
    [
        ([("a", "1")], [], []),
        ([], [], [("a", "1")]),
        # It came after the list was made.
        ([], [("a", "1")], []),
        ([("a", "2")], [("a", "2")], [("a", "1")]),
        ([("b", "2")], [("b", "2")], [("a", "1")]),
    ],
)
def test_domains(listed: list[tuple[str, str]], asked: list[tuple[str, str]], forgotten: list[tuple[str, ...]]) -> None:
    seen: Any = Seen({"a": "1"}, {})
    cluster = listing(
        {STORAGE_DOMAINS: [body(*one) for one in listed]}, {STORAGE_DOMAINS: [body(*one) for one in asked]}
    )
    relist(cluster, seen, "node-a")
    assert seen.forgotten == forgotten


@pytest.mark.parametrize(
    ("listed", "asked", "forgotten"),
    [
        (["1"], [], []),
        ([], [], [("1",)]),
        # It is another node's now.
        ([], ["1"], []),
        (["2"], ["2"], [("1",)]),
    ],
)
def test_migrations(listed: list[str], asked: list[str], forgotten: list[tuple[str, ...]]) -> None:
    seen: Any = Seen({}, {"1": ("vms", "m")})
    cluster = listing(
        {DISK_MIGRATIONS: [body("m", uid, "vms") for uid in listed]},
        {DISK_MIGRATIONS: [body("m", uid, "vms") for uid in asked]},
    )
    relist(cluster, seen, "node-a")
    assert seen.forgotten == forgotten
