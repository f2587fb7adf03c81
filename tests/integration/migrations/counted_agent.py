"""The agent, which counts what it remembers: `python -m tests.integration.migrations.counted_agent`.

On SIGUSR1 it writes how many objects of each of the project's classes and of libvirt's there are, and how much each
container holds that such an object or one of the project's modules keeps by a name.
"""

import functools
import gc
import json
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from diskmigration.agent.main import main

FILE = "DISKMIGRATION_TEST_CENSUS"
_CONTAINERS = (dict, list, set, frozenset, tuple, deque, WeakKeyDictionary, WeakValueDictionary)


def census() -> dict[str, int]:
    """Count, by what a reader finds in the code: `module.Class`, `module.Class.attribute`, `module.name`."""
    for each in gc.get_objects():
        if isinstance(each, functools._lru_cache_wrapper):
            # Bounded, and full of whatever came last.
            each.cache_clear()
    gc.collect()
    counts: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        if _is_ours(kind.__module__):
            name = f"{kind.__module__}.{kind.__qualname__}"
            counts[name] += 1
            for attribute, size in _held_by(each):
                counts[f"{name}.{attribute}"] += size
    for module in list(sys.modules.values()):
        if _is_ours(module.__name__):
            counts.update({f"{module.__name__}.{name}": size for name, size in _sizes(vars(module))})
    return dict(counts)


def _is_ours(module: object) -> bool:
    # A class may have something else there.
    return isinstance(module, str) and module.partition(".")[0] in ("diskmigration", "libvirt")


def _held_by(each: Any) -> Iterator[tuple[str, int]]:
    slots = [slot for kind in type(each).__mro__ for slot in getattr(kind, "__slots__", ()) if isinstance(slot, str)]
    named = {slot: getattr(each, slot, None) for slot in slots}
    return _sizes({**named, **getattr(each, "__dict__", {})})


def _sizes(named: dict[str, Any]) -> Iterator[tuple[str, int]]:
    return ((name, len(held)) for name, held in named.items() if isinstance(held, _CONTAINERS) and _has_size(held))


def _has_size(held: Sized) -> bool:
    return len(held) > 0


def _answer() -> None:
    path = Path(os.environ[FILE])
    while True:
        signal.sigwait({signal.SIGUSR1})
        written = path.with_suffix(".new")
        written.write_text(json.dumps(census()))
        written.rename(path)


if __name__ == "__main__":
    # In all threads, which begin after this.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    threading.Thread(target=_answer, name="census", daemon=True).start()
    main()
