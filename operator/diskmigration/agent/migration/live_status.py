"""The part of the status that the journal does not have: progress, long operations and failures."""

import threading
import time
from collections.abc import Callable
from datetime import datetime

from diskmigration import clock
from diskmigration.agent import metrics
from diskmigration.agent.migration.activity import Activity, Operations, sentence
from diskmigration.agent.migration.progress import MergeProgress, Meter
from diskmigration.agent.storage.process_limit import Wait
from diskmigration.api.errors import MigrationError


class LiveStatus:
    """Thread-safe where copies take their readings, side by side in threads of their own; the worker has the rest."""

    def __init__(
        self,
        meter: Meter,
        *,
        operations: Operations,
        find_wait: Callable[[], Wait | None],
        on_change: Callable[[], None],
    ) -> None:
        """`find_wait` tells of a qemu-img that waits for its turn; `on_change` has the status written."""
        self.meter = meter
        # What the step under way does.
        self.step: Activity | None = None
        self.failures = 0
        self.trouble: MigrationError | None = None
        # Why a step waits until somebody resumes the VM.
        self.awaits_resume: MigrationError | None = None
        self._trouble_since: datetime | None = None
        self._merge = MergeProgress()
        self._operations = operations
        self._find_wait = find_wait
        self._on_change = on_change
        self._guard = threading.Lock()
        self._shown_wait = ""

    def activity(self) -> Activity | None:
        """Return what is waited for, what takes long, what has failed and has not ended well since, or the step."""
        if (wait := self._find_wait()) is not None:
            return Activity(wait.what, wait.since)
        lasting = self._operations.lasting(now=time.monotonic())
        return lasting or self._merge.activity or self._failed() or self.step

    def _failed(self) -> Activity | None:
        if self.trouble is None or self._trouble_since is None:
            return None
        return Activity(sentence(self.trouble.message), self._trouble_since)

    def measure(self, *, now: float, copied: int, total: int) -> None:
        """Record copied and total bytes of the whole move."""
        with self._guard:
            before = self.meter.copied
            self.meter = self.meter.advanced(now=now, copied=copied, total=total)
            metrics.COPIED_BYTES.inc(self.meter.copied - before)

    def show_progress(self, *, now: float, copied: int, total: int) -> None:
        """Record copied and total bytes of the whole move, and have them shown."""
        self.measure(now=now, copied=copied, total=total)
        self._on_change()

    def note_beat(self) -> None:
        """Record that something was read or written, or that nothing is due: the copy is not stuck."""
        with self._guard:
            self.meter = self.meter.restarted(now=time.monotonic())

    def excuse(self, seconds: float) -> None:
        """Record that nobody could look for so long: no byte was due in that time."""
        with self._guard:
            self.meter = self.meter.excused(seconds, now=time.monotonic())

    def note_wait(self) -> None:
        """Show that a qemu-img waits for its turn, or does not any more."""
        wait = self._find_wait()
        waits_for = wait.what if wait is not None else ""
        if wait is not None and wait.is_idle:
            self.note_beat()
        with self._guard:
            has_changed, self._shown_wait = waits_for != self._shown_wait, waits_for
        if has_changed:
            self._on_change()

    def show_merge(
        self,
        what: str,
        *,
        since: datetime | None,
        share: float | None = None,
        copied: int = 0,
        total: int = 0,
    ) -> None:
        """Show how far a merge is: the `share` that is done, or bytes; QEMU has no total before it has looked."""
        is_known = total > 1
        before = self._merge
        self._merge = before.advanced(
            now=time.monotonic(),
            what=what,
            since=since or (self.step.since if self.step is not None else clock.now()),
            share=copied / total if is_known else share,
            copied=copied,
            total=total if is_known else 0,
        )
        if self._merge is not before:
            self._on_change()

    def forget_merge(self) -> None:
        """Record that what a merge told of itself is over."""
        self._merge = MergeProgress()

    def note_failure(self, error: MigrationError) -> None:
        """Record that a step has failed that has to end well some time; it is told until it does."""
        self.failures += 1
        self.trouble = error
        self._trouble_since = self._trouble_since or clock.now()
        self.forget_merge()

    def note_success(self) -> None:
        """Record that a step has ended well."""
        self.awaits_resume = None
        self.failures = 0
        self.trouble = None
        self._trouble_since = None
        self.forget_merge()
