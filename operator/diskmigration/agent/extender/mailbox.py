"""The work that is to be done for one VM, one piece at a time."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor

_log = logging.getLogger(__name__)


class Mailbox:
    """Runs the pieces of work on threads of an executor, never two at a time. Thread-safe."""

    def __init__(self, vm: str, executor: Executor) -> None:
        """`vm` is the VM's uuid, for the log."""
        self._vm = vm
        self._executor = executor
        self._lock = threading.Lock()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._is_submitted = False
        self._is_running = False
        self._posts = 0

    @property
    def posts(self) -> int:
        """How often work was posted."""
        with self._lock:
            return self._posts

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._lock:
            return not (self._waiting or self._is_submitted or self._is_running)

    def post(self, key: str, work: Callable[[], None], *, is_urgent: bool = False, replaces: bool = True) -> None:
        """Run the work in its turn, and return at once; work that is urgent comes before all that waits.

        One piece of work with a key waits at a time: the newer one, or the older one unless the newer `replaces` it.
        """
        with self._lock:
            self._posts += 1
            if replaces or key not in self._waiting:
                others = {other: waiting for other, waiting in self._waiting.items() if other != key}
                self._waiting = {key: work, **others} if is_urgent else {**others, key: work}
            if self._is_submitted:
                return
            self._is_submitted = True
        try:
            self._executor.submit(self._run)
        except RuntimeError as error:
            # No thread could be started, or the agent ends. A VM that stays busy would never be observed again.
            _log.warning("the VM's work waits for the next that comes", extra={"vm": self._vm, "error": str(error)})
            with self._lock:
                self._is_submitted = False

    def _run(self) -> None:
        with self._lock:
            # A call whose submission failed stays in the executor's queue, beside the one that followed it.
            if self._is_running:
                return
            self._is_running = True
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:  # noqa: BLE001 - a worker that dies silently would leave a guest to run full
                _log.exception("the extender failed", extra={"vm": self._vm})

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            key = next(iter(self._waiting), None)
            if key is None:
                self._is_running = self._is_submitted = False
                return None
            return self._waiting.pop(key)
