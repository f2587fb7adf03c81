"""The moments of a migration, in their order."""

FORWARD = (
    "TakeSnapshot.before",
    "TakeSnapshot.midway",
    "TakeSnapshot.acted",
    "PrepareDestination.before",
    "PrepareDestination.midway",
    "PrepareDestination.acted",
    "CopyChain.before",
    "CopyChain.midway",
    "CopyChain.acted",
    "StartReplication.before",
    "StartReplication.midway",
    "StartReplication.acted",
    "AwaitSync.before",
    "AwaitCutover.before",
    "Pivot.before",
    "Pivot.midway",
    "Pivot.acted",
    "Merge.before",
    "Merge.midway",
    "Merge.acted",
    "CleanUpSource.before",
    "CleanUpSource.midway",
    "CleanUpSource.acted",
    "Finish.before",
    "Finish.acted",
)
BACK = (
    "AbortReplication.before",
    "AbortReplication.acted",
    "MergeBack.before",
    "MergeBack.midway",
    "MergeBack.acted",
    "DiscardDestination.before",
    "DiscardDestination.midway",
    "DiscardDestination.acted",
)
"""Of one that is cancelled when it is synchronized."""


def is_before_pivot(moment: str) -> bool:
    """Whether the guest writes to the source still."""
    return moment in BACK or FORWARD.index(moment) < FORWARD.index("Pivot.acted")


def can_be_given_up(moment: str) -> bool:
    """Whether a migration that is cancelled there goes back: from the act of the pivot on, it goes forward alone."""
    return moment in BACK or FORWARD.index(moment) < FORWARD.index("Pivot.before")
