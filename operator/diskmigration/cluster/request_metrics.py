"""What both programs tell Prometheus of the Kubernetes API and of their clock; see docs/reference/metrics.md."""

from prometheus_client import Counter, Gauge, Histogram

from diskmigration import clock

API_REQUEST_SECONDS = Histogram(
    "diskmigration_api_request_seconds",
    "How long the Kubernetes API took to answer a request, watches left out.",
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 5, 15),
)
API_FAILURES = Counter("diskmigration_api_failures", "Requests that the Kubernetes API did not answer.")
API_THROTTLED = Counter(
    "diskmigration_api_throttled", "Answers by which the Kubernetes API asked for a rest (429, or with Retry-After)."
)
CLOCK_SKEW = Gauge(
    "diskmigration_clock_skew_seconds",
    "By how much the machine's clock is ahead of the Kubernetes API's, which is gone by; 0 where they agree.",
)
CLOCK_SKEW.set_function(clock.skew_seconds)
