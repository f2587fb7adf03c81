"""Runs a program's event loop until the process is told to end."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT)


def run_until_told(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine in an event loop on a thread of its own; SIGTERM and SIGINT cancel it.

    Not on the main thread, where kopf takes both signals for itself at each of its starts and never gives them back:
    one that arrives while a broken watch is begun again would be lost.

    Raises:
        Exception: what the coroutine raised, but for its cancellation.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    ended: Future[None] = Future()

    def cancel(*_: object) -> None:
        loop.call_soon_threadsafe(task.cancel)

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

    for number in ENDING:
        signal.signal(number, cancel)
    threading.Thread(target=run, name="event loop", daemon=True).start()
    ended.result()
