"""Which worker gets which tests, so that few clusters run at the same time: each costs a tenth of a core at rest."""

from collections import Counter
from collections.abc import Mapping, Sequence, Sized

_END_TO_END = "tests/e2e"
_LONGEST = ("tests/integration/migrations", "tests/integration/faults", _END_TO_END)
"""The folders that are begun first."""
_CELL = "::test_matrix["
_FEW_BUT_LONG = (
    "/test_busy_guest.py",
    "/test_convergence.py",
    "/test_hanging_storage.py",
    "/test_hangs.py",
    "/test_running_migration.py",
    "/test_soak.py",
)
"""The files with tests of about a minute."""


def unit_of(nodeid: str) -> str:
    """Return what is given to a worker as a whole: the file of a test, a cell of the matrix, or all of tests/e2e."""
    if _CELL in nodeid:
        # Each worker has all that these break to itself, and some faults take ten times as long as others.
        return nodeid
    return _END_TO_END if nodeid.startswith(f"{_END_TO_END}/") else nodeid.partition("::")[0]


def longest_first(tests_of: Mapping[str, Sized]) -> list[str]:
    """Return the units with the longest ones first: what is begun last has the other workers wait for its end."""
    return sorted(tests_of, key=lambda unit: (not unit.endswith(_FEW_BUT_LONG), -len(tests_of[unit])))


def next_unit(waiting: Sequence[str], last: str | None, of_others: Sequence[str]) -> str:
    """Return which of the waiting units a worker is given, which is not empty, by what each of them was given last.

    It stays in its folder. If nothing waits there, it begins the folder that nobody has begun, the longest first, and
    else helps where most waits.
    """
    folders = [_folder(unit) for unit in waiting]
    if last is not None and _folder(last) in folders:
        return waiting[folders.index(_folder(last))]
    begun = {_folder(unit) for unit in of_others}
    unbegun = [folder for folder in folders if folder not in begun]
    if unbegun:
        chosen = next((folder for folder in _LONGEST if folder in unbegun), unbegun[0])
    else:
        chosen = Counter(folders).most_common(1)[0][0]
    return waiting[folders.index(chosen)]


def _folder(unit: str) -> str:
    path = unit.partition("::")[0]
    if path == _END_TO_END:
        return path
    parts = path.split("/")
    # The tests of the pure parts have nothing running that they could share.
    return "/".join(parts[:2] if parts[1] == "unit" else parts[:-1])
