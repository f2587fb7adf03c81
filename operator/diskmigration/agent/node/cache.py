"""The one reader of the node's VMs: keeps what libvirt said last of each, and never waits for libvirt itself.

Every read runs on a thread and a connection of its own (see readers.py). A VM that does not answer keeps its own read
and nothing else: the others are read and polled on.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from diskmigration.agent import background
from diskmigration.agent.hypervisor import changes, status_files
from diskmigration.agent.hypervisor.connection import Connection
from diskmigration.agent.hypervisor.domain_xml import DomainDescription
from diskmigration.agent.hypervisor.errors import DomainGoneError, HypervisorUnavailableError
from diskmigration.agent.hypervisor.qemu_calls import MOST, QemuCalls, SilentVms
from diskmigration.agent.hypervisor.statistics import Rows
from diskmigration.agent.hypervisor.vm_reader import VmReader, VmReading
from diskmigration.agent.node import kept_names
from diskmigration.agent.node.instant import Instant
from diskmigration.agent.node.poll import Answer, Poll
from diskmigration.agent.node.probe import ASK_SECONDS, LibvirtProbe
from diskmigration.agent.node.readers import ReaderPool
from diskmigration.agent.node.table import VmTable
from diskmigration.agent.node.vm_snapshot import NodeSnapshot
from diskmigration.api.errors import MigrationError
from diskmigration.observability.health import Health
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

T = TypeVar("T")

TURN_SECONDS = 0.25
"""How often the thread looks for what is due. A VM is not read more often; see table.DEBOUNCE_SECONDS."""

LIST_SECONDS = 60.0
"""How often the list of VMs and the versions are read, as no event tells all that changes in them."""

UNLISTED_SECONDS = 5.0
"""How long the first list is waited for before the VMs are taken from what is kept on the host."""

SEARCH_SECONDS = 10.0
"""How often all VMs are read to find one for which libvirtd does not answer, while polls do not return."""

LATE_SECONDS = 60.0
_READS_AT_ONCE = 16


class NodeCache:
    """One thread from `start` to the end of the process, and those of its connections and reads.

    Its private methods are what follows from each answer and each failure; what is decided is in table.py.
    """

    def __init__(self, uri: str, health: Health, state_directory: Path) -> None:
        """Nothing is read before `start`. The names of the VMs are kept in `state_directory` for the next agent."""
        self._uri = uri
        self._state_directory = state_directory
        self._health = health
        self._probe = LibvirtProbe(uri, health, now=time.monotonic())
        self._readers = ReaderPool(uri, most=_READS_AT_ONCE)
        self.silent = SilentVms()
        """The VMs whose QEMUs answer no poll."""
        self.qemu_calls = QemuCalls(self.silent)
        """The polls are among them."""
        self._poll = Poll(ReaderPool(uri, most=MOST), self._polled, self.qemu_calls, most=MOST)
        self._guard = threading.Lock()
        self._table = VmTable()
        self._versions = ("", "")
        self._asking: dict[str, float] = {}
        self._has_presumed = False
        self._list_at = float("-inf")
        self._version_asked_at = float("-inf")
        self._search_at = float("-inf")
        self._wake = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._poll_listeners: list[Callable[[Rows, float], None]] = []
        self._kept = kept_names.file_of(state_directory, self._names_to_keep)
        self._events = Connection(uri)
        changes.watch(self._events, self.note_change)
        self._events.on_open(lambda _opened: self._lose_track())

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call back after each change of a VM that the inventory shows; the callback must return at once."""
        self._listeners.append(on_change)

    def listen_to_polls(self, on_poll: Callable[[Rows, float], None]) -> None:
        """Call back after each poll with the statistics of all running VMs and the time when they were asked for.

        The callback must return at once.
        """
        self._poll_listeners.append(on_poll)

    def start(self) -> None:
        """Start reading."""
        self._kept.start()
        threading.Thread(target=self._run, name="node", daemon=True).start()
        self._events.keep_open()

    def current_description(self, uuid: str) -> DomainDescription | None:
        """Return the VM's XML; None where it may have changed since it was read."""
        with self._guard:
            return self._table.current_description(uuid)

    def running(self) -> tuple[DomainDescription, ...]:
        """Return the XML of each VM that runs. Raises: as `snapshot`."""
        return tuple(vm.description for vm in self.snapshot().vms if vm.state.has_process and vm.description)

    def note_change(self, uuid: str) -> None:
        """Have the VM read again soon; until then its XML counts as one that may have changed."""
        with self._guard:
            self._table.note_change(uuid)
        self._wake.set()

    def snapshot(self) -> NodeSnapshot:
        """Return what is known of the node.

        Raises:
            HypervisorUnavailableError: libvirtd does not answer, or has not answered enough since it was away.
        """
        now = Instant.now()
        self._probe.require_answers(now.seconds)
        with self._guard:
            if not self._table.is_listed:
                raise HypervisorUnavailableError(
                    "libvirtd has not listed the node's VMs yet. If that lasts, it holds the lock of a VM whose "
                    "storage hangs: see whether `virsh list` answers."
                )
            if not self._table.is_current(now) or not all(self._versions):
                raise HypervisorUnavailableError("The node's VMs have not all been read yet.")
            return NodeSnapshot(*self._versions, self._table.snapshots(now))

    def _run(self) -> None:
        while True:
            self._health.turned("the thread that reads the node's VMs", within_seconds=LATE_SECONDS)
            with surviving("the thread that reads the node's VMs"):
                self._turn(Instant.now())
                self._wake.wait(TURN_SECONDS)
                self._wake.clear()

    def _turn(self, now: Instant) -> None:
        # Not under the guard: an answer of the poll is taken in under the poll's own lock, and then under the guard.
        is_silent = self._poll.is_silent(now.seconds)
        is_search_due = is_silent and now.seconds >= self._search_at
        with self._guard:
            if is_search_due:
                self._search_at = now.seconds + SEARCH_SECONDS
                self._table.have_all_read()
            if is_silent:
                self._table.note_no_poll(now)
            running, held = self._table.running(), self._table.held(now)
        self._poll.turn(now.seconds, running=running, held=held)
        if now.seconds >= self._list_at:
            self._list_at = now.seconds + LIST_SECONDS
            self._ask_alone("list", VmReader.names, self._listed, self._failed_to_list)
        if not self._has_presumed and now.seconds - self._asking.get("list", now.seconds) >= UNLISTED_SECONDS:
            self._has_presumed = True
            background.start(self._presume, name="presume")
        if now.seconds - self._version_asked_at >= (ASK_SECONDS if self._probe.is_due(now.seconds) else LIST_SECONDS):
            self._version_asked_at = now.seconds
            self._ask_alone("versions", VmReader.versions, self._told_versions, self._failed_to_tell_versions)
        self._probe.report(now.seconds)
        if self._probe.has_failed():
            return
        with self._guard:
            due = self._table.take_due(now)
        for uuid in due:
            self._submit(partial(VmReader.read, uuid=uuid), partial(self._answered, uuid), partial(self._failed, uuid))

    def _ask_alone(
        self,
        question: str,
        read: Callable[[VmReader], T],
        on_answer: Callable[[T], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Begin a read that is not of one VM, unless the last one of that question has not returned."""
        if question in self._asking:
            return
        self._asking[question] = time.monotonic()

        def answered(answer: T) -> None:
            # Before the answer is taken in: what it makes due may be asked at once.
            self._asking.pop(question, None)
            on_answer(answer)

        def failed(error: Exception) -> None:
            self._asking.pop(question, None)
            on_failure(error)

        self._submit(read, answered, failed)

    def _submit(
        self,
        read: Callable[[VmReader], T],
        on_answer: Callable[[T], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Begin a read. Whoever calls sees to it that the same is not read twice at a time."""

        def run(reader: VmReader) -> None:
            try:
                answer = read(reader)
                self._probe.answered(time.monotonic())
                on_answer(answer)
            except Exception as error:  # noqa: BLE001 - one VM that cannot be read keeps no other from being read
                if isinstance(error, DomainGoneError):
                    self._probe.answered(time.monotonic())
                on_failure(error)

        try:
            self._readers.submit(run)
        except RuntimeError as error:
            # No thread could be started.
            on_failure(error)

    def _listed(self, names: Mapping[str, str]) -> None:
        with self._guard:
            self._table.listed(names)
        self._has_presumed = False
        self._kept.write_soon()
        self._wake.set()

    def _presume(self) -> None:
        """Know the VMs without libvirtd's list, which waits for the lock of each."""
        with surviving("the search for the VMs that libvirtd does not list"):
            names = {**kept_names.read(self._state_directory), **status_files.running_vms(self._uri)}
            with self._guard:
                self._table.presume(names)
            self._wake.set()

    def _names_to_keep(self) -> Mapping[str, str]:
        with self._guard:
            return self._table.names()

    def _failed_to_list(self, error: Exception) -> None:
        _log.warning("the node's VMs could not be listed", extra={"error": str(error)})
        self._list_at = time.monotonic() + ASK_SECONDS

    def _told_versions(self, versions: tuple[str, str]) -> None:
        with self._guard:
            self._versions = versions

    def _failed_to_tell_versions(self, error: Exception) -> None:
        has_just_failed = not self._probe.has_failed()
        self._probe.failed(error.message if isinstance(error, MigrationError) else repr(error))
        if has_just_failed:
            self._lose_track()

    def _answered(self, uuid: str, reading: VmReading) -> None:
        with self._guard:
            has_changed = self._table.answered(uuid, reading, Instant.now())
        if has_changed:
            self._tell()

    def _failed(self, uuid: str, error: Exception) -> None:
        if isinstance(error, DomainGoneError):
            with self._guard:
                has_changed = self._table.gone(uuid)
            if has_changed:
                self._tell()
            return
        _log.warning("a VM could not be read", extra={"vm": uuid, "error": str(error)})
        with self._guard:
            self._table.failed(uuid, Instant.now())

    def _polled(self, answer: Answer) -> None:
        self._probe.answered(time.monotonic())
        with self._guard:
            now = Instant.now()
            rows = self._table.polled(answer.rows, now, left_out=answer.left_out)
            self.silent.know(self._table.hung(now))
        for listener in self._poll_listeners:
            listener(rows, answer.asked_at)

    def _lose_track(self) -> None:
        with self._guard:
            self._table.lose_track()
        self._has_presumed = False
        self._list_at = float("-inf")
        self._wake.set()

    def _tell(self) -> None:
        self._kept.write_soon()
        for listener in self._listeners:
            listener()
