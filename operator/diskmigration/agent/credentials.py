"""As whom files are opened and to whom they belong: credentials(7), by number."""

import re
from dataclasses import dataclass

_BY_NUMBER = re.compile(r"\+(\d+):\+(\d+)")


@dataclass(frozen=True)
class Credentials:
    """A user and a group."""

    uid: int
    gid: int

    def __str__(self) -> str:
        """Return them as chown takes them."""
        return f"{self.uid}:{self.gid}"

    @property
    def is_root(self) -> bool:
        """Whether the user is root."""
        return self.uid == 0


def parse_label(label: str) -> Credentials | None:
    """Return the credentials that a label of libvirt's DAC driver says by number; None where it says names."""
    found = _BY_NUMBER.fullmatch(label.strip())
    return Credentials(int(found[1]), int(found[2])) if found is not None else None
