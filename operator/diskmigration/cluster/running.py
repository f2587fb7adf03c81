"""Runs a program's event loop until the process is told to end."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT)


def run_until_told(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in an event loop on a thread of its own; SIGTERM and SIGINT cancel it.

    Call it on the main thread. The coroutine does not run there, as kopf takes both signals for itself on the main
    thread at each of its starts and never gives them back: one that arrives while a broken watch is begun again would
    be lost.

    Raises:
        Exception: what the coroutine raised, but for its cancellation.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    ended: Future[None] = Future()

    def cancel(*_: object) -> None:
        loop.call_soon_threadsafe(task.cancel)

    with _bytes_of_signals() as (incoming, outgoing):

        def run() -> None:
            try:
                # Not asyncio.run, which waits for requests that are under way in threads.
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                ended.set_result(None)
            except BaseException as error:  # noqa: BLE001 - it is raised again, in the main thread
                ended.set_exception(error)
            else:
                ended.set_result(None)
            # Closed where a signal's byte made the main thread look just now.
            with suppress(OSError):
                outgoing.send(b"\0")

        for number in ENDING:
            signal.signal(number, cancel)
        threading.Thread(target=run, name="event loop", daemon=True).start()
        while not ended.done():
            incoming.recv(1)
    ended.result()


@contextmanager
def _bytes_of_signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a socket that receives a byte for each signal, and the one that sends it.

    Python runs a handler on the main thread alone, and the kernel may give the signal to any thread. A main thread that
    waits for a lock goes on waiting then, and the handler never runs. Python sends the byte on whatever thread the
    signal arrived (signal.set_wakeup_fd).
    """
    incoming, outgoing = socket.socketpair()
    with incoming, outgoing:
        outgoing.settimeout(0)
        before = signal.set_wakeup_fd(outgoing.fileno(), warn_on_full_buffer=False)
        try:
            yield incoming, outgoing
        finally:
            signal.set_wakeup_fd(before)
