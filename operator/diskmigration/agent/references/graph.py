"""Tell who stands on a volume, by a graph of images and their users. What cannot be read is a value of its own. Pure.

Identity decides, never a path. A user whose images could not all be read may stand on anything.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from diskmigration.agent.storage.driver import Identity


class Location(NamedTuple):
    """Where an image is named to be, and the format that is stated for it, "" for none."""

    path: str
    format: str


@dataclass(frozen=True)
class Image:
    """What was seen at a location: `identity` is None where that could not be told, `below` what the image names.

    `obstacle` says why one of them is unknown, else it is "".
    """

    identity: Identity | None
    below: tuple[Location, ...] = ()
    obstacle: str = ""


@dataclass(frozen=True)
class User:
    """Somebody who needs an image; `start` is None where which one could not be told, and `obstacle` says why.

    `is_open` tells that the image is open now: who has it open is asked before each removal, so it need not be seen.
    `is_raw_medium` tells that it is raw and in a CD-ROM or floppy drive, so that it is no qcow2 volume of any name.
    `identity` is that of a user who is an image himself: he goes with it.
    """

    description: str
    start: Location | None
    obstacle: str = ""
    is_open: bool = False
    is_raw_medium: bool = False
    identity: Identity | None = None


@dataclass(frozen=True)
class Graph:
    """All users, and every image that they reach."""

    users: tuple[User, ...]
    images: Mapping[Location, Image]

    def reached_by(self, user: User) -> tuple[Image, ...]:
        """Return the images that the user needs, the one that he names first."""
        found: dict[Location, Image] = {}
        waiting = [user.start] if user.start is not None else []
        while waiting:
            location = waiting.pop()
            if location not in found:
                found[location] = self.images[location]
                waiting.extend(found[location].below)
        return tuple(found.values())


@dataclass(frozen=True)
class Candidate:
    """A volume that is to be removed."""

    identity: Identity
    is_qcow2: bool


@dataclass(frozen=True)
class Judgement:
    """The users that are known to need a volume, and those that may: each a clause of a message."""

    users: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def walk(starts: Iterable[Location], look: Callable[[Location], Image]) -> dict[Location, Image]:
    """Return every image that can be reached from there, each looked at once."""
    images: dict[Location, Image] = {}
    waiting = list(starts)
    while waiting:
        location = waiting.pop()
        if location not in images:
            images[location] = look(location)
            waiting.extend(images[location].below)
    return images


def judge(candidate: Candidate, graph: Graph, *, gone: frozenset[Identity] = frozenset()) -> Judgement:
    """Return who needs the candidate or may need it; images that are `gone` by now need nothing."""
    users: dict[str, None] = {}
    doubts: dict[str, None] = {}
    for user in graph.users:
        if user.identity is not None and user.identity in gone | {candidate.identity}:
            continue
        reached = graph.reached_by(user)
        if any(image.identity == candidate.identity for image in reached):
            users[user.description] = None
        elif (doubt := _doubt(user, reached, candidate)) is not None:
            doubts[f"{user.description}: {doubt}"] = None
    return Judgement(tuple(users), tuple(doubts))


def _doubt(user: User, reached: tuple[Image, ...], candidate: Candidate) -> str | None:
    """Why the user may need the candidate all the same, or None."""
    if user.start is None:
        return user.obstacle
    first, *rest = reached
    if first.identity is None and (user.is_open or (user.is_raw_medium and candidate.is_qcow2)):
        return None
    return next((image.obstacle for image in (first, *rest) if image.obstacle), None)
