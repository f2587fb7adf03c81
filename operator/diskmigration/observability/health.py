"""What a program's probes tell: whether its loops turn, and whether it can work. Thread-safe."""

import threading
import time
from collections.abc import Callable, Sequence

Check = Callable[[], Sequence[str]]
"""Returns what is wrong, in plain words; nothing where all is well."""


class Health:
    """Live while every loop turns; ready when every part that the program needs has answered when it was last asked.

    A part that does not answer, an API server or a libvirtd, never makes the program un-live: to start anew would not
    help.
    """

    def __init__(self, *needs: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`needs` are the parts; none of them has answered yet."""
        self._clock = clock
        self._guard = threading.Lock()
        self._due: dict[str, float] = {}
        self._problems = {part: f"{part} has not answered yet" for part in needs}
        self._checks: list[Check] = []

    def turned(self, loop: str, *, within_seconds: float) -> None:
        """A loop has turned, and is to turn again within so many seconds."""
        with self._guard:
            self._due[loop] = self._clock() + within_seconds

    def check(self, check: Check) -> None:
        """Has this asked too whether the program lives."""
        self._checks.append(check)

    def answers(self, part: str) -> None:
        """The part has answered."""
        with self._guard:
            self._problems.pop(part, None)

    def fails(self, part: str, why: str) -> None:
        """The part has not answered."""
        with self._guard:
            self._problems[part] = f"{part} does not answer: {why}"

    def why_not_live(self) -> list[str]:
        """What is stuck."""
        now = self._clock()
        with self._guard:
            late = {loop: now - due for loop, due in self._due.items() if now > due}
        told = [f"{loop} should have turned {seconds:.0f} s ago" for loop, seconds in sorted(late.items())]
        return [*told, *(problem for check in self._checks for problem in check())]

    def why_not_ready(self) -> list[str]:
        """What does not answer."""
        with self._guard:
            return [self._problems[part] for part in sorted(self._problems)]
