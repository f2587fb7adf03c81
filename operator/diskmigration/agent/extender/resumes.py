"""When a guest that QEMU paused for want of room is resumed."""

import logging
import time
from dataclasses import dataclass, replace

from diskmigration.agent import metrics
from diskmigration.agent.hypervisor.domain import Domain

_log = logging.getLogger(__name__)

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0

RAN_SECONDS = 10.0
"""A guest that ran for so long since it was resumed is taken to have had room."""


@dataclass(frozen=True)
class Resumes:
    """How often a guest was resumed in vain: it met the end of its volume again at once, and nothing has grown.

    A domain that shows room may refuse it all the same, by a quota of its server say. Each resume lets the guest write
    what is refused again, so it is made ever more rarely. Pure; times are in seconds on one monotonic clock.
    """

    in_vain: int = 0
    resumed_at: float | None = None
    paused_at: float | None = None

    def paused(self, at: float) -> "Resumes":
        """Record that the guest was seen paused."""
        if self.paused_at is not None:
            return self
        has_run = self.resumed_at is None or at - self.resumed_at >= RAN_SECONDS
        return replace(self, in_vain=0 if has_run else self.in_vain, paused_at=at)

    def resumed(self, at: float, *, has_grown: bool) -> "Resumes":
        """Record that the guest was resumed; if its volume has grown meanwhile, that was not in vain."""
        return Resumes(self.in_vain if has_grown else self.in_vain + 1, resumed_at=at)

    def may_resume(self, at: float) -> bool:
        """Whether the guest may be resumed then; at once after its first pause."""
        return self.paused_at is None or at >= self.paused_at + self.delay_seconds

    @property
    def delay_seconds(self) -> float:
        """How long a guest that was paused waits until it is resumed."""
        return min(FIRST_SECONDS * 2.0 ** (self.in_vain - 1), LONGEST_SECONDS) if self.in_vain else 0.0


class Resumer:
    """Resumes guests. One thread at a time works on one VM, which is known by its uuid."""

    def __init__(self) -> None:
        """No VM was resumed yet."""
        self._known: dict[str, Resumes] = {}

    def resume(self, domain: Domain, *, has_grown: bool, paused_at: float) -> bool:
        """Let a guest that was seen paused go on, and return True; or return False, as that was in vain a moment ago.

        Raises:
            MigrationError: libvirt did not resume it.
        """
        state = self._known.get(domain.uuid, Resumes()).paused(paused_at)
        self._known[domain.uuid] = state
        if not state.may_resume(time.monotonic()):
            return False
        domain.resume()
        self._known[domain.uuid] = state.resumed(time.monotonic(), has_grown=has_grown)
        metrics.RESUMED.inc()
        _log.log(
            logging.WARNING if state.in_vain else logging.INFO,
            "resumed the VM that had met a full volume, as there is room now",
            extra={"vm": domain.uuid, "inVain": state.in_vain},
        )
        return True

    def forget(self, uuid: str) -> None:
        """Forget a VM that does not run any more."""
        self._known.pop(uuid, None)
