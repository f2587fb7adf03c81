"""How many calls wait for QEMUs at once: each has a worker of libvirtd to itself until its QEMU has answered.

libvirtd has 20 workers (max_workers in libvirtd.conf). It would answer for no VM if VMs that hang had all of them.
"""

import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from diskmigration.agent.hypervisor.errors import HypervisorUnavailableError

MOST = 16
"""Fewer than libvirtd's workers, so that some are left for the calls that no QEMU has to answer."""

FREE_SECONDS = 5.0
"""How long a call waits for others to end. QEMUs that answer do so within that time."""

_WAITS = "It is asked again, and nothing that was copied is lost."


class SilentVms:
    """The VMs that are known not to answer. Thread-safe.

    What watches all VMs has one call waiting for each of them, and learns from it that it answers again. Of all others
    one at a time may wait for such a VM too, as what is known may be wrong: somebody else keeps the VM busy, say.
    """

    def __init__(self) -> None:
        """None are known."""
        self._uuids: frozenset[str] = frozenset()
        self._turn = threading.Lock()

    def know(self, uuids: Collection[str]) -> None:
        """Take these for the VMs that do not answer."""
        self._uuids = frozenset(uuids)

    @contextmanager
    def asking(self, uuid: str) -> Iterator[None]:
        """Ask a VM something in the block.

        Raises:
            HypervisorUnavailableError: it does not answer, and another call waits for one that does not.
        """
        with ExitStack() as held:
            if uuid in self._uuids:
                if not self._turn.acquire(blocking=False):
                    raise HypervisorUnavailableError(
                        f"libvirt did not answer when the VM {uuid} was watched: its QEMU stands still, or another "
                        f"tool keeps it busy. {_WAITS}"
                    )
                held.callback(self._turn.release)
            yield


class QemuCalls:
    """Counts the calls that wait for a QEMU. Thread-safe."""

    def __init__(self, silent: SilentVms | None = None, *, most: int = MOST) -> None:
        """So many calls may wait at once; a VM that is `silent` is asked as SilentVms says."""
        self._silent = silent if silent is not None else SilentVms()
        self._places = threading.Semaphore(most)

    @contextmanager
    def one(self, uuid: str | None = None) -> Iterator[None]:
        """Make a call in the block that may wait for the VM's QEMU; for that of any VM without a `uuid`.

        Raises:
            HypervisorUnavailableError: the VM does not answer, or too many others do not.
        """
        with ExitStack() as held:
            if uuid is not None:
                held.enter_context(self._silent.asking(uuid))
            if not self._places.acquire(timeout=FREE_SECONDS):
                raise HypervisorUnavailableError(
                    "libvirt did not answer the calls that it was sent before, and libvirtd may have no worker for "
                    f"another one: too many of the node's QEMUs stand still. {_WAITS} See `max_workers` in "
                    "libvirtd.conf."
                )
            held.callback(self._places.release)
            yield
