"""How long to go on trying where giving up helps nobody."""

from collections.abc import Iterator


class ForEver:
    """Delays between tries, in seconds, that never end: kopf gives up a watch, and the process with it, when they do.

    They stay short: an API server that is back after an hour is found at once.
    """

    def __iter__(self) -> Iterator[float]:
        """Begins anew for each request."""
        yield from (0.5, 1, 2)
        while True:
            yield 5
