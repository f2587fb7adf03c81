"""The phase that people read while a step is under way."""

from diskmigration.agent.migration.decision import Step
from diskmigration.api.disk_migration import Phase

_PHASES = {
    Step.TAKE_SNAPSHOT: Phase.SNAPSHOTTING,
    Step.SKIP_SNAPSHOT: Phase.SNAPSHOTTING,
    Step.PREPARE_DESTINATION: Phase.PREPARING_DESTINATION,
    Step.COPY_CHAIN: Phase.COPYING_CHAIN,
    Step.START_REPLICATION: Phase.REPLICATING,
    Step.DROP_REPLICATION: Phase.REPLICATING,
    Step.SWITCH_COPY_MODE: Phase.REPLICATING,
    Step.AWAIT_SYNC: Phase.REPLICATING,
    Step.AWAIT_CUTOVER: Phase.SYNCHRONIZED,
    Step.COPY_COLD: Phase.REPLICATING,
    Step.PIVOT: Phase.PIVOTING,
    Step.PIVOT_COLD: Phase.PIVOTING,
    Step.SETTLE_COLD_SWITCH: Phase.PIVOTING,
    Step.MERGE: Phase.MERGING,
}


def phase_of(step: Step) -> Phase:
    """Return the phase that the status shows during the step."""
    return _PHASES.get(step, Phase.CLEANING_UP)
