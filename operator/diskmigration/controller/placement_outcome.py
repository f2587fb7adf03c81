"""What a look at a migration may end in: a place, or a refusal."""

from dataclasses import dataclass, field

from diskmigration.api.disk_migration import Side
from diskmigration.api.errors import Reason
from diskmigration.controller.dependencies import Dependency


@dataclass(frozen=True)
class Refusal:
    """It cannot start as things are. A permanent one stays so whatever changes around it.

    `disk_keys` are those of its disk, as far as that was found. `sides`, its source and its destination, are set where
    it only waits until another migration of its disk has ended. `is_provisional` says that it is too early to
    tell, as the operator has just begun to look at a node's Lease: nothing is written.
    """

    reason: Reason
    message: str
    is_permanent: bool = False
    disk_keys: tuple[str, ...] = ()
    sides: tuple[Side, Side] | None = None
    is_provisional: bool = False
    depends_on: frozenset[Dependency] = field(default=frozenset())


@dataclass(frozen=True)
class Placement:
    """Where it can run: the node, the disk under the names by which others may claim it, and both domains.

    `needed_bytes` is what the destination has to take in on that node. `moves_nothing` tells that the disk is not where
    it would be moved from, as far as the inventory knows. That may be older than the disk's last move, so its agent
    looks, and ends the migration or moves the disk.
    """

    node: str
    disk_keys: tuple[str, ...]
    source: Side
    destination: Side
    needed_bytes: int
    moves_nothing: bool = False
    depends_on: frozenset[Dependency] = field(default=frozenset())


Outcome = Placement | Refusal


class NotPlaceableError(Exception):
    """Carries a refusal out of the checks, so that they read in their order. The fields are those of `Refusal`."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        sides: tuple[Side, Side] | None = None,
        is_provisional: bool = False,
    ) -> None:
        """Keep what the refusal will say."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.sides = sides
        self.is_provisional = is_provisional
