"""What a node publishes of the volumes that it needs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diskmigration.agent.references.graph import Graph, Image, Location, User
from diskmigration.agent.references.usage import Usage, usage_of
from diskmigration.agent.storage.driver import Identity
from diskmigration.api.errors import MigrationError, Reason


def domain(name: str, *, fails: bool = False) -> Any:
    """A storage domain whose volumes lie in the directory of its name."""

    def volume_at(path: Path) -> str | None:
        if fails:
            raise MigrationError(Reason.STORAGE_FAILED, "it is away")
        return path.name if path.parent == Path("/") / name else None

    return SimpleNamespace(name=name, driver=SimpleNamespace(volume_at=volume_at, image_at={}.get))


def usage(*users: User, images: dict[str, Image], domains: tuple[Any, ...] = (domain("nfs"),)) -> Usage:
    return usage_of(Graph(users, {Location(path, "qcow2"): image for path, image in images.items()}), domains)


TOP = User("the VM web-1", Location("/nfs/top", "qcow2"))
CHAIN = {
    "/nfs/top": Image(Identity("1"), (Location("/nfs/base", "qcow2"),)),
    "/nfs/base": Image(Identity("2")),
}


def test_the_whole_chain_is_told() -> None:
    found = usage(TOP, images=CHAIN)
    assert found.of("nfs") == ("base", "top")
    assert found.unseen == ()


def test_of_a_domain_that_cannot_tell_and_of_one_that_was_not_asked_nothing_is_known() -> None:
    found = usage(TOP, images=CHAIN, domains=(domain("nfs"), domain("away", fails=True)))
    assert found.of("nfs") == ("base", "top")
    assert found.of("away") is None
    assert found.of("other") is None
    assert Usage().of("nfs") is None


def test_what_is_unseen_is_told_and_raw_media_come_last() -> None:
    images = {f"/away/{number}": Image(None, obstacle=f"/away/{number} is not seen") for number in range(40)}
    media = [User(f"medium {number}", Location(f"/away/{number}", "qcow2"), is_raw_medium=True) for number in range(39)]
    found = usage(*media, User("the VM db-1", Location("/away/39", "qcow2")), images=images)
    assert len(found.unseen) == 20
    assert [volume.used_by for volume in found.unseen if not volume.is_raw_medium] == ["the VM db-1"]


def test_a_pool_that_is_gone_may_have_had_any_volume() -> None:
    [unseen] = usage(User("the VM db-1", None, obstacle="the pool is gone"), images={}).unseen
    assert (unseen.used_by, unseen.reason) == ("the VM db-1", "the pool is gone")
