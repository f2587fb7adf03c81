"""Run reads of libvirt that may never return: each has a thread and a connection of its own for as long as it lasts."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from diskmigration.agent.hypervisor.vm_reader import VmReader

T = TypeVar("T")


class Readers(Protocol):
    """Whoever runs reads."""

    def submit(self, read: Callable[[VmReader], T], /) -> Future[T]:
        """Run the read soon, and return at once."""


class ReaderPool:
    """A read that hangs keeps its thread and its connection. Others are made when they are needed, up to `most`."""

    def __init__(self, uri: str, *, most: int) -> None:
        """No connection is opened before the first read."""
        self._uri = uri
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="libvirt-read")

    def submit(self, read: Callable[[VmReader], T], /) -> Future[T]:
        """See Readers."""
        return self._pool.submit(lambda: read(self._reader()))

    def _reader(self) -> VmReader:
        if not hasattr(self._own, "reader"):
            self._own.reader = VmReader(self._uri)
        reader: VmReader = self._own.reader
        return reader
