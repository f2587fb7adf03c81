"""How hypothesis runs here: a busy machine is no reason for a test to fail."""

import os
from datetime import timedelta

from hypothesis import HealthCheck, settings

# As many as hypothesis has by default are for the night.
_EXAMPLES = int(os.environ.get("DISKMIGRATION_TEST_EXAMPLES", "25"))
# Two seconds still catch a search that does not end; the default of 0.2 s catches a neighbour's build.
settings.register_profile(
    "shared",
    deadline=timedelta(seconds=2),
    max_examples=_EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")
