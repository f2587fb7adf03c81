"""What is news, and what was overtaken: events, lists and the answers to our own writes arrive in any order.

resourceVersions are compared as numbers, which the API promises since Kubernetes 1.35 (KEP-5504) and etcd gave always.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from diskmigration.api.model import ObjectMeta

REMEMBERED = 20_000
_NEVER_AGAIN = float("inf")


class StoreWentBackError(Exception):
    """The API server has an object as it was before what was seen of it, so etcd was restored from a backup.

    All that is kept is of a past that did not happen: everything must be read anew.
    """


def require_no_step_back(known: Mapping[str, float], found: Mapping[str, Any]) -> None:
    """Check an object that the API server was asked for after `known`, the newest version by uid, had been noted.

    Raises:
        StoreWentBackError: the object is older, or was deleted by then. Only etcd itself can have gone back.
    """
    metadata = found["metadata"]
    if _number(metadata["resourceVersion"]) < known.get(metadata["uid"], -1):
        name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
        raise StoreWentBackError(
            f"The API server has {found.get('kind', 'object')} {name} as it was before what was seen of it: etcd was "
            "restored from a backup. The operator ends, so that everything is read anew."
        )


class Freshness:
    """Remembers the objects that are not kept any more, so that an old list does not bring them back."""

    def __init__(self) -> None:
        """Nothing was let go."""
        self._let_go: OrderedDict[str, float] = OrderedDict()

    def is_news(self, kept: ObjectMeta | None, found: Mapping[str, Any]) -> bool:
        """Whether an object as found (its metadata) is younger than what is kept under its name, or was let go."""
        version = _number(found["resourceVersion"])
        if version <= self._let_go.get(found["uid"], -1):
            return False
        return kept is None or version > _number(kept.resource_version)

    def let_go(self, uid: str, resource_version: str) -> None:
        """The object is not kept any more; only what is younger is news."""
        self._remember(uid, _number(resource_version))

    def bury(self, uid: str) -> None:
        """The object is deleted: nothing of it is news ever again."""
        self._remember(uid, _NEVER_AGAIN)

    def versions(self) -> dict[str, float]:
        """Return up to which version each object is known that is not kept any more, by uid."""
        return dict(self._let_go)

    def _remember(self, uid: str, version: float) -> None:
        self._let_go[uid] = max(version, self._let_go.get(uid, -1))
        self._let_go.move_to_end(uid)
        if len(self._let_go) > REMEMBERED:
            self._let_go.popitem(last=False)


def version_of(kept: ObjectMeta) -> float:
    """Return the version of an object that is kept."""
    return _number(kept.resource_version)


def _number(resource_version: str) -> float:
    return float(resource_version) if resource_version.isdecimal() else _NEVER_AGAIN
