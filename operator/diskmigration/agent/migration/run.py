"""What the worker of one migration knows, beside the journal, and how it waits and tells what it waits for.

Nothing here is needed to go on after a restart. The worker's thread alone changes it; the object and the events come in
from other threads, and wake it.
"""

import threading
import time
from dataclasses import dataclass

from diskmigration import clock
from diskmigration.agent.hypervisor.bounded_calls import ANSWER_SECONDS, LibvirtReader
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError
from diskmigration.agent.migration import limits
from diskmigration.agent.migration.activity import Activity, Operations, activity_of, sentence
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.decision import ActiveLayer, Step
from diskmigration.agent.migration.node_services import NodeServices
from diskmigration.agent.migration.phases import phase_of, words_of
from diskmigration.agent.migration.status_reporter import StatusReporter
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.api.disk_migration import DiskMigration, Failure, Phase
from diskmigration.api.errors import Reason

LOOK_SECONDS = 1.0
"""How long to wait for an event before looking anyway."""


@dataclass(frozen=True)
class Unanswered:
    """That libvirt or the VM's QEMU does not answer: since when, by the clock of the process, and what is told."""

    at: float
    activity: Activity

    @classmethod
    def of(cls, error: HypervisorUnavailableError, before: "Unanswered | None") -> "Unanswered":
        """Return it with its newest error; `before` is what it was until now."""
        at, since = (before.at, before.activity.since) if before is not None else (time.monotonic(), clock.now())
        return cls(at, Activity(sentence(error.message), since))


class Run:
    """One migration under way on this node."""

    def __init__(self, node: NodeServices, migration: DiskMigration, statuses: StatusWriter) -> None:
        """It goes on from what the object's status says."""
        self.node = node
        self.statuses = statuses
        self.latest = migration
        self.object_is_gone = False
        self.vm_uuid: str | None = None
        self.vm_has_left = False
        self.vm_has_changed = False
        self.settled_attempt = 0
        self.attempt_number = max(migration.status.attempts, 1)
        self.context: MigrationContext | None = None
        self.layer: ActiveLayer | None = None
        self.reporter = StatusReporter(migration, statuses)
        self.reader = LibvirtReader(migration.key)
        self.stopping = threading.Event()
        self.wake = threading.Event()
        self.operations = Operations()
        self._unanswered: Unanswered | None = None
        self._wait: Activity | None = None
        self._wait_shown_at = clock.now()

    @property
    def phase(self) -> Phase:
        """The phase that the status shows."""
        return self.reporter.phase

    @property
    def is_past_pivot(self) -> bool:
        """Whether the disk was last seen at the destination."""
        return self.layer in (ActiveLayer.OVERLAY, ActiveLayer.DESTINATION)

    @property
    def is_unwanted(self) -> bool:
        """Whether the user wants it to stop, or has deleted it."""
        return self.object_is_gone or limits.wants_cancel(self.latest)

    def passed_deadline(self) -> Failure | None:
        """Return the failure of a migration whose activeDeadlineSeconds are over."""
        started = self.reporter.status.start_time
        if not limits.deadline_has_passed(self.latest, started=started, now=clock.now()):
            return None
        seconds = self.latest.spec.active_deadline_seconds
        return Failure(
            reason=Reason.DEADLINE_EXCEEDED,
            message=f"It was not done within activeDeadlineSeconds ({seconds} s).",
            phase=self.phase,
        )

    def passed_limit(self, context: MigrationContext) -> Failure | None:
        """Return the failure of a migration that took too long, or of which no byte has moved for too long."""
        seconds = self.latest.spec.progress_timeout_seconds
        if context.status.meter.is_stuck(now=time.monotonic(), timeout_seconds=seconds):
            return self.passed_deadline() or Failure(
                reason=Reason.NO_PROGRESS,
                message=f"No byte was copied for progressTimeoutSeconds ({seconds} s). "
                "Look at the destination's storage, or at spec.bandwidth.",
                phase=self.phase,
            )
        return self.passed_deadline()

    def keep_on(self) -> bool:
        """For long work: False once the round has to begin again. What was given up already is brought to its end."""
        if self.stopping.is_set():
            return False
        context = self.context
        if context is not None and (context.journal.rolls_back or self.is_past_pivot):
            return True
        if self.is_unwanted:
            return False
        return (self.passed_deadline() if context is None else self.passed_limit(context)) is None

    def show(self, phase: Phase, *, wait: Activity | str | None = None) -> None:
        """Have the status say where the migration stands, and what it waits for: a sentence, if it has no begin yet.

        Without `wait` it says what libvirt or QEMU is waited for, what takes long, which step has failed and has not
        ended well since, or what the step does.
        """
        now = clock.now()
        if isinstance(wait, str):
            wait = activity_of(sentence(wait), shown=self.reporter.message, now=now)
        self._wait, self._wait_shown_at = wait, now
        self.reporter.show(
            self.latest, self.context, phase, is_past_pivot=self.is_past_pivot, message=self._find_message()
        )

    def note_step(self, context: MigrationContext, step: Step) -> None:
        """Have the status say which step is under way, and since when."""
        now = clock.now()
        words = words_of(step, context.journal, self.latest.spec, now=now)
        if context.status.step is None or context.status.step.what != words:
            context.status.step = activity_of(words, shown=self.reporter.message, now=now)
        self.show(phase_of(step, context.journal))

    def show_what_lasts(self) -> None:
        """Have the status say what the worker's thread is in the midst of. Called by another thread."""
        self.reporter.show_what_lasts(
            self.latest, self.context, is_past_pivot=self.is_past_pivot, find_message=self._find_message
        )

    def _find_message(self) -> str:
        context, unanswered, wait = self.context, self._unanswered, self._wait
        activity = self.operations.lasting(now=time.monotonic())
        if wait is not None and (activity is None or activity.since <= self._wait_shown_at):
            activity = wait
        elif unanswered is not None:
            activity = unanswered.activity
        elif context is not None:
            activity = context.status.activity()
        return activity.message if activity is not None else ""

    def end(self, phase: Phase, reason: Reason, message: str) -> bool:
        """Show the last status. Always True, for a caller whose migration ends with it."""
        given_up_in = self.context.journal.cancelled_in if self.context is not None else None
        self.reporter.end(self.latest, phase, reason, message, given_up_in=given_up_in)
        return True

    def wait(self, seconds: float) -> None:
        """Until something happened, but no longer than that."""
        self.wake.wait(seconds)
        self.wake.clear()

    def await_answer(self, error: HypervisorUnavailableError) -> None:
        """Show that libvirt or QEMU does not answer, and since when, and wait a moment."""
        self._unanswered = Unanswered.of(error, self._unanswered)
        self.show(self.phase)
        self.wait(LOOK_SECONDS)

    def note_answer(self) -> None:
        """Go on after a time in which nobody could look: no byte was due in it."""
        if self._unanswered is not None and self.context is not None:
            self.context.status.excuse(time.monotonic() - self._unanswered.at + ANSWER_SECONDS)
        self._unanswered = None
