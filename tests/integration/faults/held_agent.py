"""The agent, which waits at the moments that a test has armed: `python -m tests.integration.faults.held_agent`."""

import os
import time
from pathlib import Path

from diskmigration.agent.main import main
from diskmigration.agent.migration import moments
from diskmigration.agent.migration.decision import Step
from diskmigration.agent.migration.moments import Moment

DIRECTORY = "DISKMIGRATION_TEST_HOLDS"
_POLL_SECONDS = 0.01


def _hold(step: Step, moment: Moment) -> None:
    directory = Path(os.environ[DIRECTORY])
    reached = directory / f"{step}.{moment}.reached"
    try:
        # One alone is held by what was armed once.
        (directory / f"{step}.{moment}.armed").rename(reached)
    except FileNotFoundError:
        return
    while reached.exists():
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    moments.listen(_hold)
    main()
