"""What the project's programs ask of an API server, by its own audit log."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.programs import SYSTEM_NAMESPACE

_POLICY = f"""\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: Metadata
    userGroups: ["system:serviceaccounts:{SYSTEM_NAMESPACE}"]
  - level: None
"""


@dataclass(frozen=True)
class Audit:
    """The log of one API server."""

    log: Path
    policy: Path

    @property
    def options(self) -> tuple[str, ...]:
        """Return what the API server is started with."""
        return f"--audit-policy-file={self.policy}", f"--audit-log-path={self.log}"

    def end(self) -> int:
        """Return where the log ends."""
        return self.log.stat().st_size if self.log.exists() else 0

    def requests(self, since: int, *, name: str) -> Counter[str]:
        """Return how often each program has asked each thing of that name since then, its Events among them."""
        return Counter(
            f"{_program(event)} {event['verb']} {_resource(event)}"
            for event in self._events(since)
            if event.get("objectRef", {}).get("name", "").partition(".")[0] == name
        )

    def _events(self, since: int) -> Iterator[dict[str, Any]]:
        with self.log.open("rb") as log:
            log.seek(since)
            for line in log:
                # The last one may be in the making.
                if line.endswith(b"\n"):
                    yield json.loads(line)


def made_audit(directory: Path) -> Audit:
    """Return an audit log in this directory, with its policy."""
    directory.mkdir(parents=True, exist_ok=True)
    policy = directory / "audit-policy.yaml"
    policy.write_text(_POLICY)
    return Audit(directory / "audit.log", policy)


def _program(event: dict[str, Any]) -> str:
    return str(event["user"]["username"]).rpartition("-")[2]


def _resource(event: dict[str, Any]) -> str:
    found = event["objectRef"]
    return "/".join(filter(None, (found["resource"], found.get("subresource", ""))))
