"""A lock for each key, kept only while somebody has it or waits for it."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

_K = TypeVar("_K", bound=Hashable)


class KeyedLocks(Generic[_K]):
    """Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[_K, threading.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        """Return how many locks are had or waited for."""
        return len(self._locks)

    @contextmanager
    def of(self, key: _K) -> Iterator[None]:
        """Hold the key's lock."""
        with self._guard:
            lock = self._locks.get(key)
            if lock is None:
                lock = self._locks[key] = threading.Lock()
        with lock:
            yield
