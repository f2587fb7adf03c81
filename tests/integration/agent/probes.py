"""What the kubelet and Prometheus find at a program's HTTP port."""

import socket
import urllib.error
import urllib.request
from dataclasses import dataclass


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
