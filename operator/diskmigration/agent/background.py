"""Run a call that may hang on a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def start(call: Callable[[], _T], *, name: str) -> "Future[_T]":
    """Return at once what will hold the call's result or error. The process does not wait for it at its end."""
    outcome: Future[_T] = Future()
    threading.Thread(target=_run, args=(call, outcome), name=name, daemon=True).start()
    return outcome


def _run(call: Callable[[], _T], outcome: "Future[_T]") -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is awaited
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
