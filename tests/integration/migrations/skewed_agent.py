"""The agent on a machine whose clock is wrong by as many seconds as the environment says."""

import os
from datetime import UTC, datetime, timedelta

from diskmigration import clock
from diskmigration.agent.main import main

VARIABLE = "DISKMIGRATION_TEST_CLOCK_SKEW"


def _machine_time() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=int(os.environ[VARIABLE]))


if __name__ == "__main__":
    clock.machine_time = _machine_time
    main()
