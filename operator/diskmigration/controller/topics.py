"""Names of the things whose change can turn a refusal into a placement, or the other way round.

Whoever was judged by a thing waits for its topic; whoever changes it says so. So a change costs as much as it
concerns migrations, and not as many as there are.
"""

from collections.abc import Iterable

Topic = str

_DOMAIN = "domain/"


def machine_name(name: str) -> Topic:
    """VMs of that name, on any node."""
    return f"machine-name/{name}"


def machine_uuid(uuid: str) -> Topic:
    """The VM of that uuid, on any node."""
    return f"machine-uuid/{uuid.lower()}"


def node(name: str) -> Topic:
    """Whether a node's agent is alive, and knows the node's VMs."""
    return f"node/{name}"


def domain(name: str) -> Topic:
    """A storage domain: its spec, or whether some node is ready for it."""
    return f"{_DOMAIN}{name}"


def space(domain_name: str, node: str) -> Topic:
    """How much a storage domain has left on a node."""
    return f"space/{domain_name}/{node}"


def disk(key: str) -> Topic:
    """Who may move a disk."""
    return f"disk/{key}"


def domains_among(changed: Iterable[Topic]) -> list[str]:
    """The names of the storage domains whose topic is among these."""
    return [topic.removeprefix(_DOMAIN) for topic in changed if topic.startswith(_DOMAIN)]
