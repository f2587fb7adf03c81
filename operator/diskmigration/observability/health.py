"""What a program's probes tell: whether its loops turn, and whether it can work. Thread-safe."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

Check = Callable[[], Sequence[str]]
"""Returns what is wrong, in plain words; nothing where all is well."""


@dataclass(frozen=True)
class _Loop:
    due: float
    within_seconds: float
    waits_for: str


class Health:
    """Live while every loop turns; ready when every part that the program needs has answered when it was last asked.

    A part that does not answer, an API server or a libvirtd, never makes the program un-live: to start anew would not
    help.
    """

    def __init__(self, *needs: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`needs` are the parts; none of them has answered yet."""
        self._clock = clock
        self._guard = threading.Lock()
        self._loops: dict[str, _Loop] = {}
        self._problems = {part: f"{part} has not answered yet" for part in needs}
        self._checks: list[tuple[Check, str]] = []

    def turned(self, loop: str, *, within_seconds: float, waits_for: str = "") -> None:
        """A loop has turned, and is to turn again within so many seconds.

        One that waits for a part has that time anew once the part answers.
        """
        with self._guard:
            self._loops[loop] = _Loop(self._clock() + within_seconds, within_seconds, waits_for)

    def check(self, check: Check, *, waits_for: str = "") -> None:
        """Has this asked too whether the program lives, but not while the part that it waits for does not answer."""
        self._checks.append((check, waits_for))

    def answers(self, part: str) -> None:
        """The part has answered."""
        with self._guard:
            if self._problems.pop(part, None) is None:
                return
            now = self._clock()
            for name, loop in self._loops.items():
                if loop.waits_for == part:
                    self._loops[name] = replace(loop, due=now + loop.within_seconds)

    def fails(self, part: str, why: str) -> None:
        """The part has not answered."""
        with self._guard:
            self._problems[part] = f"{part} does not answer: {why}"

    def lacks(self, part: str, why: str) -> None:
        """The part is not there yet; `why` is told as it is."""
        with self._guard:
            self._problems[part] = why

    def why_not_live(self) -> list[str]:
        """What is stuck."""
        now = self._clock()
        with self._guard:
            silent = frozenset(self._problems)
            loops = {name: loop for name, loop in self._loops.items() if loop.waits_for not in silent}
        told = [
            f"{name} should have turned {now - loop.due:.0f} s ago"
            for name, loop in sorted(loops.items())
            if now > loop.due
        ]
        checks = [check for check, waits_for in self._checks if waits_for not in silent]
        return [*told, *(problem for check in checks for problem in check())]

    def why_not_ready(self) -> list[str]:
        """What does not answer."""
        with self._guard:
            return [self._problems[part] for part in sorted(self._problems)]
