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
COLD = (
    "PrepareDestination.before",
    "PrepareDestination.midway",
    "PrepareDestination.acted",
    "CopyChain.before",
    "CopyChain.midway",
    "CopyChain.acted",
    "CopyCold.before",
    "CopyCold.midway",
    "CopyCold.acted",
    "PivotCold.before",
    "PivotCold.midway",
    "PivotCold.acted",
    "CleanUpSource.before",
    "CleanUpSource.midway",
    "CleanUpSource.acted",
    "Finish.before",
    "Finish.acted",
)
"""Of a VM that is shut off."""
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


def can_be_given_up(moment: str) -> bool:
    """Whether a migration that is cancelled there goes back: from the act of the pivot on, it goes forward alone."""
    if moment in COLD:
        return COLD.index(moment) < COLD.index("PivotCold.before")
    return moment in BACK or FORWARD.index(moment) < FORWARD.index("Pivot.before")


def has_removed_source(moment: str) -> bool:
    """Whether the source's volumes are gone there."""
    return moment in ("CleanUpSource.acted", "Finish.before", "Finish.acted")
