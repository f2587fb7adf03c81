"""Keep libvirt's last answers about each VM, and choose which VM to read next. Pure: no calls, and no clock.

Events say which VM changed. For what no event tells, the poll of the statistics shows which layers the running VMs
have, and one running VM and a few that are off are read each second in turn.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.statistics import DomainStatistics, Rows
from diskmigration.agent.hypervisor.vm_reader import VmReading
from diskmigration.agent.node.instant import Instant
from diskmigration.agent.node.vm_snapshot import VmSnapshot
from diskmigration.api.libvirt_host import VirtualMachineState

RESYNC_SECONDS = 1.0
RUNNING_IN_TURN = 1
OFF_IN_TURN = 3
"""More than of those that run: nothing else tells that a device was added to a definition."""

DEBOUNCE_SECONDS = 0.25
"""A block job or a migration's journal causes several events at once."""

RETRY_SECONDS = 5.0
HELD_SECONDS = 2.0
"""A read waits for nothing but libvirtd's lock of the VM, so that one which takes longer probably hangs."""

HUNG_SECONDS = 5.0
"""A VM that gave no figures in polls for so long is asked nothing else: a QEMU that is only busy is soon done."""

SILENT_SECONDS = 10.0
"""A VM that has not answered for so long is shown as one that does not answer."""


@dataclass
class _Entry:
    """`asked` is the read under way, `failing` the first that failed since the last answer.

    `lacking` is the first poll without any figures since the last one with them; QEMU gives all of them at once.
    """

    name: str
    reading: VmReading | None = None
    row: DomainStatistics | None = None
    asked: Instant | None = None
    failing: Instant | None = None
    lacking: Instant | None = None
    is_stale: bool = True
    is_confirmed: bool = False
    asked_at: float = float("-inf")
    not_before: float = float("-inf")

    @property
    def is_running(self) -> bool:
        return self.row is not None or (self.reading is not None and self.reading.state.has_process)

    def unread_since(self, now: Instant) -> Instant | None:
        return _long_ago(now, self.failing, self.asked)

    def silent_since(self, now: Instant) -> Instant | None:
        return _long_ago(now, self.failing, self.asked, self.lacking)

    def is_hung(self, now: Instant) -> bool:
        """Return whether polls that were answered had no figures of it."""
        has_none = self.row is not None and not self.row.has_figures
        return has_none and self.lacking is not None and now.seconds - self.lacking.seconds >= HUNG_SECONDS


def _long_ago(now: Instant, *moments: Instant | None) -> Instant | None:
    """Return the earliest of the moments that is too long ago."""
    late = [moment for moment in moments if moment is not None and now.seconds - moment.seconds >= SILENT_SECONDS]
    return min(late, key=lambda moment: moment.seconds, default=None)


class VmTable:
    """Not thread-safe. Methods that take in an answer return whether the inventory shows something else now.

    There is one for each answer, event and question. All of them concern the same entries, so they are one class.
    """

    def __init__(self) -> None:
        """Nothing is known; the first list is to be asked for."""
        self._entries: dict[str, _Entry] = {}
        self._resync_at = 0.0
        self.is_listed = False

    def lose_track(self) -> None:
        """Take nothing for current any more: events were lost."""
        self.is_listed = False
        for entry in self._entries.values():
            entry.is_confirmed, entry.is_stale, entry.not_before = False, True, float("-inf")

    def note_change(self, uuid: str) -> None:
        """Have the VM read again, known or not."""
        # A VM that appears after the list has been read is one change among others: the rest is still current.
        entry = self._entries.setdefault(uuid, _Entry(name="", is_confirmed=self.is_listed))
        entry.is_stale = True
        entry.not_before = min(entry.not_before, entry.asked_at + DEBOUNCE_SECONDS)

    def have_all_read(self) -> None:
        """Have every VM read again, to find one that libvirt does not answer for."""
        for entry in self._entries.values():
            entry.is_stale = True

    def current_description(self, uuid: str) -> DomainDescription | None:
        """Return the VM's XML; None where it may have changed since it was read."""
        entry = self._entries.get(uuid)
        if entry is None or entry.reading is None or entry.is_stale or entry.asked is not None:
            return None
        return entry.reading.description

    def held(self, now: Instant) -> frozenset[str]:
        """Return the VMs whose read does not return."""
        return frozenset(
            uuid
            for uuid, entry in self._entries.items()
            if entry.asked is not None and now.seconds - entry.asked.seconds >= HELD_SECONDS
        )

    def hung(self, now: Instant) -> frozenset[str]:
        """Return the VMs whose QEMUs do not answer, by the last poll that was answered."""
        return frozenset(uuid for uuid, entry in self._entries.items() if entry.is_hung(now))

    def running(self) -> frozenset[str]:
        """Return the VMs that run."""
        return frozenset(uuid for uuid, entry in self._entries.items() if entry.is_running)

    def is_current(self, now: Instant) -> bool:
        """Return whether every VM was read since the table lost track; one that does not answer is not waited for."""
        return self.is_listed and all(
            entry.is_confirmed or entry.unread_since(now) is not None for entry in self._entries.values()
        )

    def take_due(self, now: Instant) -> tuple[str, ...]:
        """Return the VMs to read now, and note that they are being read."""
        free = {
            uuid: entry
            for uuid, entry in self._entries.items()
            if entry.asked is None and now.seconds >= entry.not_before
        }
        due = [uuid for uuid, entry in free.items() if entry.is_stale]
        if now.seconds >= self._resync_at:
            self._resync_at = now.seconds + RESYNC_SECONDS
            rest = {uuid: entry for uuid, entry in free.items() if not entry.is_stale}
            due += _longest_unread((u, e) for u, e in rest.items() if e.is_running)[:RUNNING_IN_TURN]
            due += _longest_unread((u, e) for u, e in rest.items() if not e.is_running)[:OFF_IN_TURN]
        for uuid in due:
            entry = free[uuid]
            entry.asked, entry.is_stale = now, False
            entry.asked_at, entry.not_before = now.seconds, now.seconds + DEBOUNCE_SECONDS
        return tuple(due)

    def listed(self, names: Mapping[str, str]) -> None:
        """Take in the names of all VMs by uuid; one that is not among them is read, and goes if it is gone."""
        self._add(names)
        for uuid, entry in self._entries.items():
            if uuid not in names:
                entry.is_stale = True

    def presume(self, names: Mapping[str, str]) -> None:
        """Take in the names of VMs that are probably all; each is read, and goes if it is gone."""
        if not self.is_listed:
            self._add(names)

    def _add(self, names: Mapping[str, str]) -> None:
        for uuid, name in names.items():
            # A VM that is found later is one change among others: the rest is still current.
            self._entries.setdefault(uuid, _Entry(name, is_confirmed=self.is_listed)).name = name
        self.is_listed = True

    def names(self) -> Mapping[str, str]:
        """Return the name of each VM by its uuid."""
        return {uuid: entry.name for uuid, entry in self._entries.items() if entry.name}

    def answered(self, uuid: str, reading: VmReading, now: Instant) -> bool:
        """Take in what was read of a VM."""
        entry = self._entries.get(uuid)
        if entry is None:
            return False
        before = (entry.name, _shape(entry.reading), entry.unread_since(now))
        entry.name, entry.reading = reading.description.name, reading
        entry.asked = entry.failing = None
        entry.is_confirmed = True
        return before != (entry.name, _shape(reading), None)

    def gone(self, uuid: str) -> bool:
        """Forget a VM that is not there any more."""
        entry = self._entries.pop(uuid, None)
        if entry is not None and entry.is_stale:
            # An event came after it was asked for: it may have been defined again.
            self.note_change(uuid)
        return entry is not None

    def failed(self, uuid: str, now: Instant) -> None:
        """Note that a read of a VM failed: what is known stays, and it is read again after a while."""
        entry = self._entries.get(uuid)
        if entry is not None:
            entry.failing = entry.failing or entry.asked or now
            entry.asked, entry.is_stale, entry.not_before = None, True, now.seconds + RETRY_SECONDS

    def polled(self, rows: Iterable[DomainStatistics], now: Instant, *, left_out: frozenset[str] = frozenset()) -> Rows:
        """Take in the statistics of the running VMs; a VM whose layers, state or run are others is read again.

        Only their layers stay known of the VMs that the poll has left out.

        Returns:
            The statistics of all running VMs.
        """
        by_uuid = {row.uuid: row for row in rows}
        for uuid in left_out:
            if (entry := self._entries.get(uuid)) is not None and entry.row is not None:
                by_uuid.setdefault(uuid, entry.row.without_figures())
        for uuid in by_uuid.keys() - self._entries.keys():
            self.note_change(uuid)
        for uuid, entry in self._entries.items():
            row = by_uuid.get(uuid)
            if _signature(row) != _signature(entry.row):
                entry.is_stale = True
            entry.row = row
            entry.lacking = (entry.lacking or now) if row is not None and not row.has_figures else None
        return tuple(by_uuid.values())

    def note_no_poll(self, now: Instant) -> None:
        """Note that no poll is answered: of no running VM it is known whether its QEMU answers."""
        for entry in self._entries.values():
            if entry.row is not None:
                entry.lacking = entry.lacking or now

    def snapshots(self, now: Instant) -> tuple[VmSnapshot, ...]:
        """Return what is known of each VM."""
        return tuple(_snapshot(uuid, entry, now) for uuid, entry in self._entries.items() if entry.name)


def _longest_unread(entries: Iterable[tuple[str, _Entry]]) -> list[str]:
    return [uuid for uuid, _ in sorted(entries, key=lambda item: item[1].asked_at)]


def _snapshot(uuid: str, entry: _Entry, now: Instant) -> VmSnapshot:
    silent = entry.silent_since(now)
    is_unread = entry.reading is None or entry.unread_since(now) is not None
    return VmSnapshot(
        uuid=uuid,
        name=entry.name,
        state=VirtualMachineState.UNKNOWN if entry.reading is None or is_unread else entry.reading.state,
        description=entry.reading.description if entry.reading is not None else None,
        statistics=entry.row,
        silent_since=silent.date if silent is not None else None,
    )


def _shape(reading: VmReading | None) -> object:
    """Return what the inventory shows of a VM."""
    if reading is None:
        return None
    return (
        reading.state,
        reading.description.owner,
        tuple(replace(disk, mirror=None) for disk in reading.description.disks),
    )


def _signature(row: DomainStatistics | None) -> object:
    """Return what the statistics tell of the XML and the state."""
    return row and (row.run, row.state, tuple((layer.target, layer.index, layer.path) for layer in row.layers))
