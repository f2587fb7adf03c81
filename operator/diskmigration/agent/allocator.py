"""Settings of glibc's allocator for a process with many threads."""

import ctypes

_M_ARENA_MAX = -8
_ARENAS = 2


def use_few_arenas() -> None:
    """Have all threads share two of glibc's arenas, before the first thread starts. Source: mallopt(3), M_ARENA_MAX.

    glibc makes eight for each processor. What is free in one is of no use to the threads of another, so each of them
    grows to the most that its threads have ever needed at a time. Python's threads allocate one at a time and lose
    nothing.
    """
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
