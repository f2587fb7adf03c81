"""Connections to the node's libvirtd, opened again whenever they were lost, with libvirt's event loop in a thread.

A connection that is being opened, which libvirt gives no time-out, is waited for only so long. A call on an open one
waits until libvirtd answers or ends: it has no keep-alives, for want of which libvirt's client closes it, and leaves
some of the calls that wait, and some that come later, without an end (seen in 9.0).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import libvirt
import libvirt_qemu

from diskmigration.agent import metrics
from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError, answered
from diskmigration.agent.hypervisor.qemu_calls import QemuCalls
from diskmigration.agent.hypervisor.rpc_counter import CountedModule
from diskmigration.api.errors import Reason
from diskmigration.observability.loops import surviving

_log = logging.getLogger(__name__)

OPEN_SECONDS = 10.0
KEEP_SECONDS = 1.0
"""How soon a lost connection is noticed; whether one is open costs libvirtd nothing."""

_SYSTEM_SOCKETS = (Path("/run/libvirt/virtqemud-sock"), Path("/run/libvirt/libvirt-sock"))
TURN_SECONDS = 5


def _start_event_loop() -> None:
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            with surviving("libvirt's events"):
                libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


def _count_calls() -> None:
    libvirt.libvirtmod = CountedModule(libvirt.libvirtmod, metrics.LIBVIRT_CALLS)
    libvirt_qemu.libvirtmod_qemu = CountedModule(libvirt_qemu.libvirtmod_qemu, metrics.LIBVIRT_CALLS)


def _ignore_error(_context: object, _error: object) -> None:
    """Keep libvirt from printing every error to stderr; ours are raised and logged once."""


_event_loop_lock = threading.Lock()
_event_loop_started = False


def sockets_of(uri: str) -> tuple[Path, ...]:
    """Return the sockets at which libvirt's client may reach the daemon of a URI as `qemu:///system`.

    Source: libvirt's src/remote/remote_sockets.c. A daemon for QEMU alone or the one for everything may run.
    """
    named = parse_qs(urlsplit(uri).query).get("socket")
    return tuple(map(Path, named)) if named else _SYSTEM_SOCKETS


def _unreachable(uri: str, error: libvirt.libvirtError) -> HypervisorUnavailableError:
    return HypervisorUnavailableError(f"libvirtd at {uri} cannot be reached: {error}. Check that it runs on the node.")


def _release(lost: libvirt.virConnect) -> None:
    """Free a connection that was lost: its callbacks hold it, and it holds them."""
    # The binding makes it with the first callback.
    callbacks: dict[int, object] = getattr(lost, "domainEventCallbackID", {})
    for callback in list(callbacks):
        # Forgets the callback, and fails then, as libvirtd cannot be told.
        with suppress(libvirt.libvirtError):
            lost.domainEventDeregisterAny(callback)
    callbacks.clear()


class Connection:
    """Thread-safe: libvirt's own calls are, and opening is behind a lock.

    Events come on the connection that `get` returns. A call that may wait for a VM borrows one with `lend`.
    """

    def __init__(self, uri: str, qemu_calls: QemuCalls | None = None) -> None:
        """`uri` as libvirt writes it, say `qemu:///system`; nothing is opened yet.

        `qemu_calls` counts the calls for which a QEMU has to answer.
        """
        global _event_loop_started  # noqa: PLW0603 - libvirt's event loop is one a process, and must precede every open
        self._uri = uri
        self.qemu_calls = qemu_calls if qemu_calls is not None else QemuCalls()
        self._lock = threading.Lock()
        self._open: libvirt.virConnect | None = None
        self._opening: Future[libvirt.virConnect] | None = None
        self._lost: list[libvirt.virConnect] = []
        self._on_open: list[Callable[[libvirt.virConnect], None]] = []
        self._spare: list[Connection] = []
        with _event_loop_lock:
            if not _event_loop_started:
                libvirt.registerErrorHandler(_ignore_error, None)
                _count_calls()
                _start_event_loop()
                _event_loop_started = True

    def on_open(self, callback: Callable[[libvirt.virConnect], None]) -> None:
        """Call back with each newly opened connection, before anybody else gets it: event callbacks die with it."""
        self._on_open.append(callback)

    def keep_open(self) -> None:
        """Open it now, and again within a second whenever it was lost: events come on an open connection alone."""

        def run() -> None:
            while True:
                with surviving("the thread that keeps a connection of libvirt's events"):
                    try:
                        self.get()
                    except HypervisorUnavailableError as error:
                        _log.debug("libvirt's events do not come", extra={"error": error.message})
                    time.sleep(KEEP_SECONDS)

        threading.Thread(target=run, name="keep-open", daemon=True).start()

    def on_turn(self, callback: Callable[[], None]) -> None:
        """Call back every few seconds from libvirt's event loop: as long as it does, events are handed on."""
        libvirt.virEventAddTimeout(TURN_SECONDS * 1000, lambda _timer, _opaque: callback(), None)

    def get(self) -> libvirt.virConnect:
        """Return a connection that was alive a moment ago.

        Raises:
            HypervisorUnavailableError: libvirtd cannot be reached, or does not answer.
        """
        with self._lock:
            if self._open is not None and self._open.isAlive() == 1:
                return self._open
            if self._open is not None:
                self._lost.append(self._open)
                self._open = None
            if self._opening is None:
                self._opening = Future()
                threading.Thread(target=self._open_anew, args=(self._opening,), name="open", daemon=True).start()
            opening = self._opening
        try:
            return opening.result(OPEN_SECONDS)
        except TimeoutError as error:
            # The thread goes on, for whoever asks next.
            raise HypervisorUnavailableError(
                f"libvirtd at {self._uri} does not answer: nothing came within {OPEN_SECONDS:.0f} s. Check whether it "
                "hangs."
            ) from error
        except libvirt.libvirtError as error:
            raise _unreachable(self._uri, error) from error

    @contextmanager
    def lend(self) -> Iterator[libvirt.virConnect]:
        """Lend a connection that nobody else uses meanwhile; there are as many as there were calls at once.

        libvirtd answers five calls of one connection at a time (max_client_requests in libvirtd.conf). Calls that wait
        for a QEMU which does not answer would hold up all others on theirs.

        Raises:
            HypervisorUnavailableError: libvirtd cannot be reached, or does not answer.
        """
        with self._lock:
            spare = self._spare.pop() if self._spare else None
        if spare is None:
            spare = Connection(self._uri)
        try:
            yield spare.get()
        finally:
            with self._lock:
                self._spare.append(spare)

    def _open_anew(self, opening: "Future[libvirt.virConnect]") -> None:
        try:
            opened = libvirt.open(self._uri)
            for callback in self._on_open:
                callback(opened)
        except Exception as error:  # noqa: BLE001 - it is for those who wait, whatever it is
            with self._lock:
                self._opening = None
            opening.set_exception(error)
        else:
            _log.info("connected to libvirtd", extra={"uri": self._uri})
            with self._lock:
                lost, self._lost = self._lost, []
                self._open, self._opening = opened, None
            opening.set_result(opened)
            for connection in lost:
                _release(connection)

    def versions(self) -> tuple[str, str]:
        """Return the versions of libvirt and of QEMU, as `9.0.0` and `7.2.22`.

        Raises:
            HypervisorUnavailableError: libvirtd cannot be reached.
        """
        connection = self.get()
        with answered("asking libvirt for its version", failure=Reason.HYPERVISOR_UNAVAILABLE):
            return _dotted(connection.getLibVersion()), _dotted(connection.getVersion())


def _dotted(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1_000 % 1_000}.{version % 1_000}"
