"""What the kubelet and Prometheus find at a program's HTTP port."""

import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


def free_port() -> int:
    """A TCP port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Probes:
    """Asks at the port."""

    port: int

    def ask(self, path: str) -> tuple[int, str]:
        """The HTTP status and the body; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return 0, ""

    def is_live(self) -> bool:
        """The liveness probe."""
        return self.ask("livez")[0] == 200

    def is_ready(self) -> bool:
        """The readiness probe."""
        return self.ask("readyz")[0] == 200

    def why_not_ready(self) -> str:
        """What the readiness probe says is wrong; nothing while all is well."""
        status, body = self.ask("readyz")
        return body if status == 503 else ""

    def calls(self) -> Counter[str]:
        """How often each call of libvirt was sent to libvirtd."""
        status, text = self.ask("metrics")
        assert status == 200
        return Counter(
            {
                sample.labels["call"]: int(sample.value)
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "diskmigration_libvirt_calls_total"
            }
        )

    def calls_in_two_seconds(self) -> Counter[str]:
        """How often each call is sent to libvirtd in two seconds, counted for twice as long."""
        before = self.calls()
        time.sleep(4)  # nothing is waited for: this is how long is counted
        return Counter({call: (count + 1) // 2 for call, count in (self.calls() - before).items()})
