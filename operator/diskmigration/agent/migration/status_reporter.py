"""Keep a migration's status up to date, and log its events."""

import logging
import threading
from collections.abc import Callable

from diskmigration import clock
from diskmigration.agent.migration import status
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.progress import Meter
from diskmigration.agent.migration.stalled import stalled
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.api import conditions
from diskmigration.api.disk_migration import ConditionType, DiskMigration, DiskMigrationStatus, Phase
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)


class StatusReporter:
    """Report on one migration, from its worker's thread and those of its copies."""

    def __init__(self, migration: DiskMigration, statuses: StatusWriter) -> None:
        self._statuses = statuses
        self._guard = threading.Lock()
        # It goes on from the status that an agent before this one wrote.
        self.status: DiskMigrationStatus = migration.status
        self.phase: Phase = migration.status.phase or Phase.SCHEDULED
        told = conditions.find(migration.status.conditions, ConditionType.SUCCEEDED)
        self.message = told.message if told is not None else ""
        self._figures: dict[str, status.VolumeFigures] = {}
        self._has_ended = False

    def meter_of(self, journal: Journal) -> Meter:
        """Return the progress that the status shows of this attempt already."""
        shown = self.status.progress
        if shown is None or self.status.attempts != journal.attempt:
            return Meter()
        return Meter(copied=shown.copied_bytes, total=shown.total_bytes, percent=shown.percent)

    def show(
        self,
        migration: DiskMigration,
        context: MigrationContext | None,
        phase: Phase,
        *,
        is_past_pivot: bool,
        message: str,
    ) -> None:
        """Show where the migration stands; `message` says what it waits for, or is empty."""
        if phase is not self.phase:
            self.phase = phase
            self.log_event(migration, "entered a phase")
        if context is not None:
            with context.doing("Asking the storage how large the volumes are"):
                self._figures = _figures(context)
        with self._guard:
            self._show(migration, context, is_past_pivot=is_past_pivot, message=message)

    def show_what_lasts(
        self,
        migration: DiskMigration,
        context: MigrationContext | None,
        *,
        is_past_pivot: bool,
        find_message: Callable[[], str],
    ) -> None:
        """Show a message that has changed, and ask nobody for anything: the worker's thread may wait in a call."""
        with self._guard:
            message = find_message()
            if message and message != self.message and not self._has_ended:
                self._show(migration, context, is_past_pivot=is_past_pivot, message=message)

    def _show(
        self, migration: DiskMigration, context: MigrationContext | None, *, is_past_pivot: bool, message: str
    ) -> None:
        """Under the guard: hand over the status of this moment."""
        now, before = clock.now(), self.status
        if context is None and not message:
            return
        self.message = message
        if context is None:
            self.status = status.not_begun(before, migration, phase=self.phase, message=message, now=now)
        else:
            if is_past_pivot and before.pivoted_time is None:
                before = before.model_copy(update={"pivoted_time": now})
            self.status = status.under_way(
                before,
                migration,
                phase=self.phase,
                journal=context.journal,
                figures=self._figures,
                meter=context.status.meter,
                message=message,
                now=now,
                stalled=stalled(context),
                falls_behind=context.convergence.falls_behind,
            )
        self._statuses.show(migration, self.status)

    def end(
        self, migration: DiskMigration, phase: Phase, reason: Reason, message: str, *, given_up_in: Phase | None
    ) -> None:
        """Show the last status."""
        with self._guard:
            self._has_ended = True
            self.phase = phase
            self.status = status.ended(
                self.status,
                migration,
                phase=phase,
                reason=reason,
                message=message,
                now=clock.now(),
                given_up_in=given_up_in,
            )
            self._statuses.show(migration, self.status)
        self.log_event(migration, "the migration ended", reason=reason.value)

    def log_event(self, migration: DiskMigration, event: str, **extra: str) -> None:
        """Log an event of the migration."""
        _log.info(event, extra={"migration": migration.key, "phase": self.phase.value, **extra})


def _figures(context: MigrationContext) -> dict[str, status.VolumeFigures]:
    journal = context.journal
    sides = (
        (context.source.driver, journal.at_source),
        (context.destination.driver, journal.at_destination),
    )
    found = {}
    for driver, volumes in sides:
        for volume in volumes:
            try:
                found[volume.path] = status.VolumeFigures(
                    size_bytes=driver.size_bytes(volume.name),
                    allocated_bytes=driver.allocated_bytes(volume.name),
                    extensions=context.node.extender.status_of(volume.path).extensions,
                )
            except MigrationError:
                continue  # not made yet, or removed already
    return found
