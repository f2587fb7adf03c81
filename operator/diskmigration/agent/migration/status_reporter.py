"""Keep a migration's status up to date, and log its events."""

import logging
import threading
from datetime import UTC, datetime

from diskmigration.agent.migration import status
from diskmigration.agent.migration.context import MigrationContext
from diskmigration.agent.migration.journal import Journal
from diskmigration.agent.migration.progress import Meter
from diskmigration.agent.migration.stalled import stalled
from diskmigration.agent.status_writer import StatusWriter
from diskmigration.api.disk_migration import DiskMigration, DiskMigrationStatus, Phase
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
        if context is None:
            if message:
                now = datetime.now(UTC)
                with self._guard:
                    self.status = status.not_begun(self.status, migration, phase=phase, message=message, now=now)
                    self._statuses.show(migration, self.status)
            return
        figures = _figures(context)
        with self._guard:
            now = datetime.now(UTC)
            before = self.status
            if is_past_pivot and before.pivoted_time is None:
                before = before.model_copy(update={"pivoted_time": now})
            self.status = status.under_way(
                before,
                migration,
                phase=phase,
                journal=context.journal,
                figures=figures,
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
        self.phase = phase
        self.status = status.ended(
            self.status,
            migration,
            phase=phase,
            reason=reason,
            message=message,
            now=datetime.now(UTC),
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
