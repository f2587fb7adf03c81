"""Which tests share a worker where several run side by side (pytest-xdist)."""

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.scheduler.protocol import Scheduling

_END_TO_END = "tests/e2e/"
_CELL = "::test_matrix["


class _ByWhatRuns(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Tests of one file share what it has running; those of a whole cluster share the one that there is."""

    def _split_scope(self, nodeid: str) -> str:
        if _CELL in nodeid:
            # Each worker has all that these break to itself, and some faults take ten times as long as others.
            return nodeid
        return _END_TO_END if nodeid.startswith(_END_TO_END) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """xdist's own choices know files, or groups that pytest 9.2 does not tell it of."""
    return _ByWhatRuns(config, log)
