"""The users of a storage domain's volumes as they are now: libvirt's on this node, and the images of the domain.

An image may lie on a mount whose server is away. It counts as one that cannot be read, and nobody waits for it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.named_volumes import NamedVolume, named_volumes
from diskmigration.agent.references.graph import Graph, Image, Location, User, walk
from diskmigration.agent.storage import domain_reads
from diskmigration.agent.storage.backing_names import images_named_by
from diskmigration.agent.storage.bounded_reads import BoundedReads, NoAnswerError
from diskmigration.agent.storage.domains import OpenDomain, StorageDomains
from diskmigration.agent.storage.driver import StoredImage
from diskmigration.agent.storage.identity import identify
from diskmigration.api.disk_migration import VolumeFormat
from diskmigration.api.errors import MigrationError

_ANSWER_SECONDS = 15.0
"""A machine that is busy reads a header within that time."""
_NEXT_ANSWER_SECONDS = 1.0
"""For the images that are looked at after one that has not answered: they lie on the same mount, probably."""

_reads = BoundedReads("image")


def users_on_node(connection: Connection, domains: StorageDomains) -> Graph:
    """Return what the VMs of this node and their records need.

    Raises:
        HypervisorUnavailableError: libvirt could not be asked, so nothing is known.
    """
    users = tuple(map(_user, named_volumes(connection)))
    return Graph(users, walk(_starts(users), _looking(domains)))


def users_in_domain(home: OpenDomain, domains: StorageDomains) -> Graph:
    """Return what the images of a storage domain stand on, whoever they belong to."""
    try:
        stored = domain_reads.images(home.name, home.driver)
    except MigrationError as error:
        unknown = User(f"an image of the storage domain {home.name}", None, obstacle=error.message)
        return Graph((unknown,), {})
    users = tuple(_stored_user(image, home) for image in stored)
    unread = {
        user.start: Image(image.identity, obstacle=f"{image.name} is not active on this node")
        for user, image in zip(users, stored, strict=True)
        if image.path is None and user.start is not None
    }
    look = _looking(domains)
    images = walk(_starts(users), lambda location: unread.get(location) or look(location))
    return Graph(users, images)


def _starts(users: tuple[User, ...]) -> list[Location]:
    return [user.start for user in users if user.start is not None]


def _user(named: NamedVolume) -> User:
    if named.obstacle:
        return User(named.user, None, obstacle=named.obstacle)
    # What lies below is named by somebody who knows better: the image is taken as if it named nothing itself.
    image_format = VolumeFormat.RAW if named.is_walked else named.format
    return User(
        named.user,
        Location(named.path, image_format),
        is_open=named.is_open,
        is_raw_medium=named.is_medium and named.format == VolumeFormat.RAW,
    )


def _stored_user(image: StoredImage, home: OpenDomain) -> User:
    """Return what the image is by its first bytes, as what it is used as is not known here."""
    place = image.path if image.path is not None else home.driver.path(image.name)
    description = f"the image {image.name} of the storage domain {home.name}"
    return User(description, Location(str(place), ""), identity=image.identity)


def _looking(domains: StorageDomains) -> Callable[[Location], Image]:
    seconds = _ANSWER_SECONDS

    def look(location: Location) -> Image:
        nonlocal seconds
        try:
            return _reads.read(location, partial(_look, location, domains), seconds=seconds)
        except NoAnswerError:
            seconds = _NEXT_ANSWER_SECONDS
            return Image(None, obstacle=f"{location.path} does not answer: its storage hangs")

    return look


def _look(location: Location, domains: StorageDomains) -> Image:
    path = Path(location.path)
    try:
        identity = identify(path)
    except (OSError, ValueError) as error:
        unseen = f"{path} cannot be seen by the agent ({error.strerror if isinstance(error, OSError) else error})"
        try:
            stored = domains.image_at(path)
        except MigrationError as failed:
            return Image(None, obstacle=f"{unseen}. {failed.message}")
        if stored is None:
            return Image(None, obstacle=unseen)
        if stored.path is None:
            is_raw = location.format == VolumeFormat.RAW
            return Image(stored.identity, obstacle="" if is_raw else f"{path} is not active on this node")
        path, identity = stored.path, stored.identity
    try:
        named = images_named_by(path, location.format)
    except MigrationError as error:
        return Image(identity, obstacle=error.message)
    return Image(identity, tuple(Location(str(image.path), image.format) for image in named))
