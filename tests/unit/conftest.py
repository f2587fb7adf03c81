"""How hypothesis runs here: a busy machine is no reason for a test to fail."""

from datetime import timedelta

from hypothesis import HealthCheck, settings

# Two seconds still catch a search that does not end; the default of 0.2 s catches a neighbour's build.
settings.register_profile("shared", deadline=timedelta(seconds=2), suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
