"""Which tests share a worker where several run side by side (pytest-xdist)."""

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.scheduler.protocol import Scheduling
from xdist.workermanage import WorkerController

from tests.workers import longest_first, next_unit, unit_of


class _ByWhatRuns(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Give a worker tests of the folder whose cluster it has running, as long as there are any."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        last = {worker: next(reversed(units), None) for worker, units in self.assigned_work.items()}
        others = [unit for worker, unit in last.items() if worker is not node and unit is not None]
        chosen = next_unit(longest_first(self.workqueue), last.get(node), others)
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """xdist's own choices know files, or groups that pytest 9.2 does not tell it of."""
    return _ByWhatRuns(config, log)
