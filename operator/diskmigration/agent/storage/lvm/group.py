"""A volume group of this node: the one place that runs lvm2.

Its commands are not killed with the agent. lvextend suspends the device of a running guest for a moment, and if it
ended within that moment the guest would hang. A command that cannot end, as a device of the group hangs, is waited for
aside, and none of its kind is begun before it has ended.

lvm2 by itself reads every device of the node, or those of the group alone while its hints (/run/lvm/hints) are valid,
which each new device ends. So a command is told which devices are its group's, as the last report had them.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from diskmigration.agent.storage import command
from diskmigration.agent.storage.bounded_reads import BoundedReads, NoAnswerError
from diskmigration.agent.storage.command import Ended
from diskmigration.agent.storage.lvm import group_devices, lvm_commands, lvm_errors, lvm_report
from diskmigration.agent.storage.lvm.kept_report import KeptReport
from diskmigration.agent.storage.lvm.lvm_report import GroupReport, VolumeReport
from diskmigration.agent.storage.lvm.priority_lock import PriorityLock
from diskmigration.api.errors import MigrationError, Reason

_TIMEOUT_SECONDS = 120.0
_REPORT_TIMEOUT_SECONDS = 60.0
_GRACE_SECONDS = 10.0
"""How long the end of a command is waited for that was asked to end."""

_ENVIRONMENT = {"LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}
_CHANGE = "change"
_commands = BoundedReads("lvm")


class VolumeGroup:
    """Thread-safe. There is one object a group, see `named`, as the turns are its own."""

    def __init__(self, name: str) -> None:
        """`name` was checked."""
        self.name = name
        self._lock = PriorityLock()
        self._group = KeptReport(self._read_group)
        self._volumes = KeptReport(self._read_volumes)

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
            return self._run(_CHANGE, line, doing=doing, timeout=_TIMEOUT_SECONDS)
        finally:
            self._group.forget()
            self._volumes.forget()

    def _read_group(self) -> GroupReport:
        ended = self._read(lvm_commands.report_group(self.name))
        is_unlocked = lvm_errors.says_unlocked(ended.said)
        found = lvm_report.read_group(ended.printed, self.name, is_unlocked=is_unlocked)
        # None where one is missing: the next command reads all devices of the node.
        group_devices.known.put(self.name, found.devices)
        return found

    def _read_volumes(self) -> tuple[VolumeReport, ...]:
        return lvm_report.read_volumes(self._read(lvm_commands.report_volumes(self.name)).printed, self.name)

    def _read(self, line: Sequence[str]) -> Ended:
        doing = f"reading the volume group {self.name}"
        ended = self._run(line[0], line, doing=doing, timeout=_REPORT_TIMEOUT_SECONDS)
        if ended.status != 0:
            raise lvm_errors.failure(ended.said or ended.printed, doing=doing, line=line)
        return ended

    def _run(self, kind: str, line: Sequence[str], *, doing: str, timeout: float) -> Ended:
        """Run a command on the devices of the group, or on all of the node where the group's are not known.

        Raises:
            MigrationError: StorageFailed, it did not end in time, or one before it has not ended yet.
        """
        if devices := group_devices.known.of(self.name):
            confined = lvm_commands.confined(line, devices)
            ended = self._run_as_it_is(kind, confined, doing=doing, timeout=timeout)
            if not lvm_errors.says_device_is_missing(ended.said):
                return ended
            # The group has got another device, or one has another name now.
            group_devices.known.put(self.name, ())
        return self._run_as_it_is(kind, line, doing=doing, timeout=timeout)

    def _run_as_it_is(self, kind: str, line: Sequence[str], *, doing: str, timeout: float) -> Ended:
        """Run a command, of which only one of each kind is under way for the group.

        Raises:
            MigrationError: StorageFailed, it did not end in time, or one before it has not ended yet.
        """
        run = partial(command.run_undisturbed, line, environment=_ENVIRONMENT, timeout=timeout)
        try:
            ended = _commands.read((self.name, kind), run, seconds=timeout + _GRACE_SECONDS)
        except FileNotFoundError as error:
            raise MigrationError(
                Reason.STORAGE_FAILED, f"While {doing}: {line[0]} is not installed where the agent runs. Install lvm2."
            ) from error
        except NoAnswerError as error:
            raise lvm_errors.unanswered(doing=doing, command=line[0], seconds=timeout, since=error.since) from error
        if ended is None:
            raise lvm_errors.unanswered(doing=doing, command=line[0], seconds=timeout)
        return ended


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
