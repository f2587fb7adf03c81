"""How a step makes a request without holding up the event loop."""

from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Request(Protocol):
    """Runs a blocking request beside the event loop."""

    def __call__(self, call: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Awaitable[_R]:
        """Its answer, or what it raised."""
