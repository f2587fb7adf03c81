"""What a judgement depends on: the things whose change can turn a refusal into a placement, or the other way round.

Whoever was judged by a thing waits for it; whoever changes it says so. So a change costs as much as it
concerns migrations, and not as many as there are.
"""

from collections import defaultdict
from collections.abc import Iterable

Dependency = str

_DOMAIN = "domain/"


def machine_name(name: str) -> Dependency:
    """VMs of that name, on any node."""
    return f"machine-name/{name}"


def machine_uuid(uuid: str) -> Dependency:
    """The VM of that uuid, on any node."""
    return f"machine-uuid/{uuid.lower()}"


def node(name: str) -> Dependency:
    """Whether a node's agent is alive, and knows the node's VMs."""
    return f"node/{name}"


def domain(name: str) -> Dependency:
    """A storage domain: its spec, or whether some node is ready for it."""
    return f"{_DOMAIN}{name}"


def space(domain_name: str, node: str) -> Dependency:
    """How much a storage domain has left on a node."""
    return f"space/{domain_name}/{node}"


def disk(key: str) -> Dependency:
    """Who may move a disk."""
    return f"disk/{key}"


def domains_among(changed: Iterable[Dependency]) -> list[str]:
    """The names of the storage domains whose dependency is among these."""
    return [dependency.removeprefix(_DOMAIN) for dependency in changed if dependency.startswith(_DOMAIN)]


class DependencyIndex:
    """Not thread-safe: one event loop owns it."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._by_dependency: defaultdict[Dependency, set[str]] = defaultdict(set)
        self._dependencies_of: dict[str, frozenset[Dependency]] = {}

    def wait(self, key: str, dependencies: frozenset[Dependency]) -> None:
        """Says what a migration waits for, in place of what it waited for."""
        before = self._dependencies_of.get(key, frozenset())
        for dependency in before - dependencies:
            self._by_dependency[dependency].discard(key)
            if not self._by_dependency[dependency]:
                del self._by_dependency[dependency]
        for dependency in dependencies - before:
            self._by_dependency[dependency].add(key)
        if dependencies:
            self._dependencies_of[key] = dependencies
        else:
            self._dependencies_of.pop(key, None)

    def forget(self, key: str) -> None:
        """Ends its waiting."""
        self.wait(key, frozenset())

    def concerned(self, dependencies: Iterable[Dependency]) -> set[str]:
        """Who waits for any of the dependencies."""
        return {key for dependency in dependencies for key in self._by_dependency.get(dependency, ())}
