"""Ctrl-C and its like: raised as an exception, once, and only where the demo may be interrupted."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedBySignal(BaseException):
    """The demo was asked to end."""


class Endings:
    """The signals that ask the demo to end; from its making on, none ends the process by itself."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._may_raise = False
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within the block the first signal raises InterruptedBySignal in the main thread; clean up outside of it."""
        self._may_raise = True
        try:
            if self.received is not None:
                raise InterruptedBySignal
            yield
        finally:
            self._may_raise = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        if self._may_raise:
            self._may_raise = False
            raise InterruptedBySignal
