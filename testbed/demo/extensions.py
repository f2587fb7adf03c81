"""The extensions that an agent made, read from its log."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

_MESSAGE = "extended a thin volume"


@dataclass(frozen=True)
class Extended:
    """A volume that grew, how often, and from which size to which, in bytes."""

    volume: str
    storage_domain: str
    times: int
    from_bytes: int
    to_bytes: int


def read_extensions(lines: Iterable[str]) -> tuple[Extended, ...]:
    """Return the volumes that lines of an agent's log say were extended, in the order of their first extension."""
    found: dict[str, Extended] = {}
    for line in lines:
        event = _event(line)
        if event.get("message") != _MESSAGE:
            continue
        volume = str(event["volume"])
        before = found.get(volume)
        found[volume] = Extended(
            volume=volume,
            storage_domain=str(event["storageDomainName"]),
            times=before.times + 1 if before else 1,
            from_bytes=before.from_bytes if before else int(str(event["fromBytes"])),
            to_bytes=int(str(event["toBytes"])),
        )
    return tuple(found.values())


def _event(line: str) -> dict[str, object]:
    try:
        event = json.loads(line)
    except ValueError:
        # What is no event of the agent: a warning of its interpreter, say.
        return {}
    return event if isinstance(event, dict) else {}
