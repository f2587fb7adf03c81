"""Nothing is ever called free that somebody may need: random forests of images against a brute-force oracle."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from diskmigration.agent.references.graph import Candidate, Graph, Image, Judgement, Location, User, judge, walk
from diskmigration.agent.storage.driver import Identity

ANYTHING = -1
"""What something that cannot be read may stand on."""


@dataclass(frozen=True)
class TrueImage:
    """An image as it is: what it stands on, by numbers; whether its header can be read; its names, seen or not."""

    below: tuple[int, ...]
    is_readable: bool
    names: Mapping[str, bool]
    is_qcow2: bool


@dataclass(frozen=True)
class TrueUser:
    """Somebody who needs an image, named so; by a VM that runs, all below it is named as well, and open."""

    image: int
    name: str
    kind: str


@dataclass(frozen=True)
class World:
    images: tuple[TrueImage, ...]
    users: tuple[TrueUser, ...]
    chosen_names: Mapping[tuple[int, int], str]

    def identity(self, number: int) -> Identity:
        return Identity(f"file 1:{number}")

    def needed_by(self, number: int) -> set[int]:
        """All that an image stands on, itself included, as it is in truth."""
        found, waiting = set(), [number]
        while waiting:
            if (current := waiting.pop()) not in found:
                found.add(current)
                waiting += self.images[current].below
        return found

    def image_named(self, name: str) -> int:
        return next(number for number, image in enumerate(self.images) if name in image.names)

    def look(self, location: Location) -> Image:
        """What the agent sees."""
        number = self.image_named(location.path)
        image = self.images[number]
        if not image.names[location.path]:
            return Image(None, obstacle=f"{location.path} is not seen")
        if location.format == "raw":
            return Image(self.identity(number))
        if not image.is_readable:
            return Image(self.identity(number), obstacle=f"{location.path} is not readable")
        below = tuple(Location(self.chosen_names[number, lower], "qcow2") for lower in image.below)
        return Image(self.identity(number), below)

    def graph(self) -> Graph:
        users = tuple(itertools.chain.from_iterable(map(self._users, self.users)))
        return Graph(users, walk([user.start for user in users if user.start is not None], self.look))

    def _users(self, user: TrueUser) -> list[User]:
        described = f"{user.kind} {user.image}"
        if user.kind == "pool":
            return [User(described, None, obstacle="the pool is gone")]
        if user.kind == "stored":
            return [User(described, Location(user.name, ""), identity=self.identity(user.image))]
        if user.kind == "running":
            layers = {user.image: user.name}
            for lower in self.needed_by(user.image) - {user.image}:
                layers[lower] = next(iter(self.images[lower].names))
            return [User(described, Location(name, "raw"), is_open=True) for name in layers.values()]
        if user.kind == "medium":
            return [User(described, Location(user.name, "raw"), is_raw_medium=True)]
        return [User(described, Location(user.name, "qcow2"))]

    def open_images(self) -> set[int]:
        running = (user.image for user in self.users if user.kind == "running")
        return set().union(*map(self.needed_by, running))


@st.composite
def worlds(draw: st.DrawFn, *, hides: bool = True) -> World:
    count = draw(st.integers(1, 7))
    seen = st.booleans() if hides else st.just(True)
    images, names = [], {}
    for number in range(count):
        others = [other for other in range(count) if other != number]
        below = draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
        own_names = {f"/{number}/{name}": draw(seen) for name in range(draw(st.integers(1, 3)))}
        images.append(TrueImage(tuple(below), draw(seen), own_names, is_qcow2=bool(below) or draw(st.booleans())))
    for number, lower in itertools.product(range(count), repeat=2):
        names[number, lower] = draw(st.sampled_from(sorted(images[lower].names)))
    kinds = ["defined", "stored", "running", "medium", *(["pool"] if hides else [])]
    users = []
    for _ in range(draw(st.integers(0, 5))):
        number, kind = draw(st.integers(0, count - 1)), draw(st.sampled_from(kinds))
        # A medium is raw: it has nothing below it.
        if kind == "medium" and images[number].is_qcow2:
            continue
        image_names = sorted(images[number].names)
        # A volume of the storage domain was found by its own name.
        name = draw(st.sampled_from([name for name in image_names if images[number].names[name]] or image_names))
        users.append(TrueUser(number, name, kind))
    return World(tuple(images), tuple(users), names)


def judgement_of(world: World, number: int, gone: frozenset[int] = frozenset()) -> Judgement:
    candidate = Candidate(world.identity(number), world.images[number].is_qcow2)
    return judge(candidate, world.graph(), gone=frozenset(map(world.identity, gone)))


def is_free(judgement: Judgement) -> bool:
    return not judgement.users and not judgement.doubts


@given(worlds(), st.data())
def test_nothing_is_free_that_anybody_truly_stands_on(world: World, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(world.images) - 1))
    # Who has a volume open is asked beside.
    assume(number not in world.open_images())
    users = [user for user in world.users if not (user.kind == "stored" and user.image == number)]
    is_needed = any(number in world.needed_by(user.image) for user in users)
    judgement = judgement_of(world, number)
    event(f"needed: {is_needed}, free: {is_free(judgement)}")
    assert not (is_needed and is_free(judgement))


def oracle(world: World, number: int) -> tuple[bool, bool]:
    """Whether somebody is known to need the image, and whether somebody may, by the closure of one relation.

    What cannot be read stands on anything, and anything on all.
    """
    graph = world.graph()
    nodes: list[Any] = [*graph.images, *graph.users, ANYTHING, number]
    reaches = {(node, node) for node in nodes}
    for location, image in graph.images.items():
        reaches |= {(location, lower) for lower in image.below}
        if image.identity == world.identity(number):
            reaches.add((location, number))
        if image.obstacle:
            reaches.add((location, ANYTHING))
    for user in graph.users:
        if user.start is None:
            reaches.add((user, ANYTHING))
            continue
        first = graph.images[user.start]
        is_excused = user.is_open or (user.is_raw_medium and world.images[number].is_qcow2)
        if user.identity != world.identity(number) and not (first.identity is None and is_excused):
            reaches.add((user, user.start))
    reached = _closure(nodes, reaches)
    needed = [(number in reached[user], ANYTHING in reached[user]) for user in graph.users]
    return any(known for known, _ in needed), any(doubtful and not known for known, doubtful in needed)


def _closure(nodes: list[Any], relation: set[tuple[Any, Any]]) -> dict[Any, set[Any]]:
    """What each node reaches, by Warshall's algorithm."""
    reached = {node: {right for left, right in relation if left == node} for node in nodes}
    for middle in nodes:
        for node in nodes:
            if middle in reached[node]:
                reached[node] |= reached[middle]
    return reached


@given(worlds(), st.data())
def test_the_judgement_is_that_of_the_oracle(world: World, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(world.images) - 1))
    judgement = judgement_of(world, number)
    assert (bool(judgement.users), bool(judgement.doubts)) == oracle(world, number)


@given(worlds(hides=False), st.data())
def test_where_all_is_seen_nothing_is_kept_for_nobody(world: World, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(world.images) - 1))
    users = [user for user in world.users if not (user.kind == "stored" and user.image == number)]
    is_needed = any(number in world.needed_by(user.image) for user in users)
    judgement = judgement_of(world, number)
    assert bool(judgement.users) == is_needed
    assert not judgement.doubts


BASE, TOP, OTHER = (Identity(f"file 1:{number}") for number in range(3))


def graph(*users: User, images: Mapping[Location, Image]) -> Graph:
    return Graph(users, images)


STORED = {
    Location("/top", ""): Image(TOP, (Location("/base", "qcow2"),)),
    Location("/base", "qcow2"): Image(BASE),
    Location("/base", ""): Image(BASE),
}


def test_an_image_that_is_gone_needs_nothing() -> None:
    users = [User("top", Location("/top", ""), identity=TOP), User("base", Location("/base", ""), identity=BASE)]
    known = graph(*users, images=STORED)
    assert judge(Candidate(BASE, is_qcow2=True), known) == Judgement(users=("top",))
    assert judge(Candidate(BASE, is_qcow2=True), known, gone=frozenset({TOP})) == Judgement()


@pytest.mark.parametrize(
    ("user", "is_kept"),
    [
        (User("off", Location("/away", "raw")), True),
        (User("running", Location("/away", "raw"), is_open=True), False),
        (User("medium", Location("/away", "raw"), is_raw_medium=True), False),
        (User("pool", None, obstacle="the pool is gone"), True),
    ],
)
def test_what_is_not_seen_may_be_any_volume_unless_that_is_impossible(user: User, is_kept: bool) -> None:
    images = {Location("/away", "raw"): Image(None, obstacle="/away is not seen")}
    judgement = judge(Candidate(BASE, is_qcow2=True), graph(user, images=images))
    assert judgement.users == ()
    assert bool(judgement.doubts) == is_kept
    assert all(user.description in doubt for doubt in judgement.doubts)


def test_a_raw_medium_that_is_not_seen_may_be_a_raw_volume() -> None:
    images = {Location("/away", "raw"): Image(None, obstacle="/away is not seen")}
    medium = User("medium", Location("/away", "raw"), is_raw_medium=True)
    assert judge(Candidate(BASE, is_qcow2=False), graph(medium, images=images)).doubts
