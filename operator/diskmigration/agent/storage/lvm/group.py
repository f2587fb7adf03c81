"""A volume group of this node: the one place that runs lvm2.

Its commands are not killed with the agent. lvextend suspends the device of a running guest for a moment, and if it
ended within that moment the guest would hang.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from diskmigration.agent.storage import command
from diskmigration.agent.storage.command import Ended
from diskmigration.agent.storage.lvm import lvm_commands, lvm_errors, lvm_report
from diskmigration.agent.storage.lvm.lvm_report import GroupReport, VolumeReport
from diskmigration.agent.storage.lvm.priority_lock import PriorityLock
from diskmigration.api.errors import MigrationError, Reason

_TIMEOUT_SECONDS = 120.0
_REPORT_TIMEOUT_SECONDS = 20.0
_FAILURE_SECONDS = 10.0
_ENVIRONMENT = {"LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}
_T = TypeVar("_T")


class _Reader(Generic[_T]):
    """A report that is asked for by many, and read by one at a time."""

    def __init__(self, read: Callable[[], _T]) -> None:
        self._read = read
        self._guard = threading.Lock()
        self._kept: tuple[float, _T] | None = None
        self._failed: tuple[float, MigrationError] | None = None

    def get(self, max_age_seconds: float) -> _T:
        with self._guard:
            now = time.monotonic()
            kept = self._kept
            if kept is not None and now - kept[0] < max_age_seconds:
                return kept[1]
            # A group that does not answer is not asked again for each of its volumes that is to be shown.
            if max_age_seconds and self._failed is not None and now - self._failed[0] < _FAILURE_SECONDS:
                raise MigrationError(self._failed[1].reason, self._failed[1].message)
            try:
                found = self._read()
            except MigrationError as error:
                self._failed = (time.monotonic(), error)
                raise
            self._kept, self._failed = (now, found), None
            return found

    def forget(self) -> None:
        self._kept = None


class VolumeGroup:
    """Thread-safe. There is one object a group, see `named`, as the turns are its own."""

    def __init__(self, name: str) -> None:
        """`name` was checked."""
        self.name = name
        self._lock = PriorityLock()
        self._group = _Reader(self._read_group)
        self._volumes = _Reader(self._read_volumes)

    @contextmanager
    def turn(self, *, urgent: bool = False) -> Iterator[None]:
        """Hold the group's lock over what is looked up and what is changed because of it; run short commands only."""
        with self._lock.take(urgent=urgent):
            yield

    def wait_until_idle(self, *, timeout: float) -> bool:
        """Return whether none of our commands changes the group, within that many seconds."""
        return self._lock.wait_until_free(timeout=timeout)

    def describe(self, *, max_age_seconds: float = 0.0) -> GroupReport:
        """Return the group, as it was no longer ago than that.

        Raises:
            MigrationError: StorageFailed.
        """
        return self._group.get(max_age_seconds)

    def volumes(self, *, max_age_seconds: float = 0.0) -> tuple[VolumeReport, ...]:
        """Return its volumes, as they were no longer ago than that.

        Raises:
            MigrationError: StorageFailed.
        """
        return self._volumes.get(max_age_seconds)

    def volume(self, name: str, *, max_age_seconds: float = 0.0) -> VolumeReport | None:
        """Return one of its volumes, or None.

        Raises:
            MigrationError: StorageFailed.
        """
        found = self.volumes(max_age_seconds=max_age_seconds)
        return next((volume for volume in found if volume.lv_name == name), None)

    def change(self, line: Sequence[str], *, doing: str) -> None:
        """Run a command that changes the group, while the caller has the turn.

        Raises:
            MigrationError: StorageFailed; NoRoomError.
        """
        ended = self.try_change(line, doing=doing)
        if ended.status != 0:
            raise lvm_errors.failure(ended.said or ended.printed, doing=doing, line=line)

    def try_change(self, line: Sequence[str], *, doing: str) -> Ended:
        """As `change`, but return how the command ended.

        Raises:
            MigrationError: StorageFailed, when it did not end.
        """
        try:
            return _run(line, doing=doing, timeout=_TIMEOUT_SECONDS)
        finally:
            self._group.forget()
            self._volumes.forget()

    def _read_group(self) -> GroupReport:
        return lvm_report.read_group(self._read(lvm_commands.report_group(self.name)), self.name)

    def _read_volumes(self) -> tuple[VolumeReport, ...]:
        return lvm_report.read_volumes(self._read(lvm_commands.report_volumes(self.name)), self.name)

    def _read(self, line: Sequence[str]) -> str:
        doing = f"reading the volume group {self.name}"
        ended = _run(line, doing=doing, timeout=_REPORT_TIMEOUT_SECONDS)
        if ended.status != 0:
            raise lvm_errors.failure(ended.said or ended.printed, doing=doing, line=line)
        return ended.printed


_guard = threading.Lock()
_groups: dict[str, VolumeGroup] = {}


def named(name: str) -> VolumeGroup:
    """Return the group of that name: the same object for every storage domain on it."""
    with _guard:
        return _groups.setdefault(name, VolumeGroup(name))


def wait_until_all_are_idle(*, timeout: float) -> bool:
    """Return whether none of our commands changes any group, within that many seconds."""
    end = time.monotonic() + timeout
    with _guard:
        groups = list(_groups.values())
    return all(group.wait_until_idle(timeout=max(end - time.monotonic(), 0.0)) for group in groups)


def _run(line: Sequence[str], *, doing: str, timeout: float) -> Ended:
    try:
        ended = command.run_undisturbed(line, environment=_ENVIRONMENT, timeout=timeout)
    except FileNotFoundError as error:
        raise MigrationError(
            Reason.STORAGE_FAILED, f"While {doing}: {line[0]} is not installed where the agent runs. Install lvm2."
        ) from error
    if ended is None:
        raise lvm_errors.unanswered(doing=doing, command=line[0], seconds=timeout)
    return ended
