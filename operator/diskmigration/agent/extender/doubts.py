"""What libvirt reports of volumes that cannot be: nothing is extended on it, and the migration says so.

Growth on such a report could go on without end (BZ998443), and the guest may be running on a damaged volume.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from diskmigration.agent.extender.watched import WatchedVolume
from diskmigration.agent.extender.watermark import HighWater, why_impossible
from diskmigration.api.errors import MigrationError, Reason

_log = logging.getLogger(__name__)

_LOOKS = 2
"""In how many looks in a row a report has to be impossible before it is spoken of: one may be read at a bad moment."""

_Opened = tuple[int, str]


@dataclass(frozen=True)
class _Record:
    """One volume as QEMU opened it; `looks` counts those in a row that found what is in `doubt`."""

    path: str
    believed: HighWater
    doubt: str | None = None
    looks: int = 0


class Doubts:
    """Thread-safe. An open volume is known by the VM's run and by libvirt's device, neither of which comes again."""

    def __init__(self) -> None:
        """Nothing was reported yet."""
        self._guard = threading.Lock()
        self._records: dict[str, dict[_Opened, _Record]] = {}

    def judge(self, uuid: str, run: int, volumes: Iterable[WatchedVolume], *, is_whole: bool = True) -> frozenset[str]:
        """Takes in what is reported of the VM's volumes; the paths of those that it cannot be true of.

        Of a report that is not whole, what was known of the other volumes stays: one that nothing is known of at the
        moment is neither damaged nor whole for that.
        """
        with self._guard:
            before = self._records.get(uuid, {})
            after = {} if is_whole else dict(before)
            for volume in volumes:
                opened = (run, volume.statistics.device)
                after[opened] = _judged(volume, before.get(opened, _Record(volume.thin.path, HighWater())))
            self._records[uuid] = after
        for opened, record in after.items():
            if record.looks == _LOOKS and record != before.get(opened):
                error = _error(record)
                _log.error(
                    "libvirt reports of a thin volume what cannot be; it is not extended on it",
                    extra={"vm": uuid, "path": record.path, "reason": error.reason, "error": error.message},
                )
        return frozenset(record.path for record in after.values() if record.doubt is not None)

    def about(self, path: str) -> MigrationError | None:
        """What is reported of the volume at that path that cannot be, and what to do; None where all is well."""
        return next((_error(record) for record in self._lasting() if record.path == path), None)

    def count(self) -> int:
        """How many volumes are not extended for it."""
        return len(self._lasting())

    def forget(self, uuid: str) -> None:
        """The VM does not run any more."""
        with self._guard:
            self._records.pop(uuid, None)

    def _lasting(self) -> list[_Record]:
        with self._guard:
            every = [record for records in self._records.values() for record in records.values()]
        return [record for record in every if record.looks >= _LOOKS]


def _judged(volume: WatchedVolume, last: _Record) -> _Record:
    doubt = why_impossible(volume.thin, last.believed)
    if doubt is None:
        return _Record(volume.thin.path, last.believed.raised_to(volume.thin))
    return _Record(volume.thin.path, last.believed, doubt, last.looks + 1)


def _error(record: _Record) -> MigrationError:
    return MigrationError(
        Reason.IMPOSSIBLE_ALLOCATION,
        f"libvirt reports {record.doubt}, of {record.path}, which cannot be. The volume may be damaged: it is not "
        "extended until the report is possible again. Look at the volume and at the guest's file systems.",
    )
