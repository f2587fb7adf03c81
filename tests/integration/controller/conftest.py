"""The operator as a process of its own, with its service account's token, on the real API server."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from diskmigration.api import names
from diskmigration.cluster.client import Cluster
from testbed.control_plane import ControlPlane
from tests.integration.controller.outages import Heartbeats
from tests.integration.controller.world import World, connect_admin, making
from tests.integration.user import User, user_of
from tests.waiting import PATIENCE, wait_until

GRACE_SECONDS = 3
STALE_SECONDS = 3600
"""Most tests let no Lease go stale: they do not renew them."""

OPERATOR_ACCOUNT = "diskmigration-operator"


class Operator:
    """The operator's process, which a test may kill and start again."""

    def __init__(self, control_plane: ControlPlane, log: Path) -> None:
        self._kubeconfig = control_plane.account_kubeconfig(names.SYSTEM_NAMESPACE, OPERATOR_ACCOUNT)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self, *options: str) -> None:
        """Starts it, and waits until the API server has answered it. It has no one to lead, unless told otherwise."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "diskmigration.controller",
            f"--kubeconfig={self._kubeconfig}",
            f"--acceptance-grace-seconds={GRACE_SECONDS}",
            f"--lease-stale-seconds={STALE_SECONDS}",
            "--lease-poll-seconds=0.25",
            f"--http-port={self.port}",
            "--no-leader-elect",
            *options,
        ]
        source = Path(__file__).parents[3] / "operator"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(source)}
            )
        wait_until(self.is_ready, f"the operator is ready; see {self._log}", seconds=60)

    def is_live(self) -> bool:
        """What the kubelet's liveness probe would find."""
        return self._answers("livez")

    def is_ready(self) -> bool:
        """What the kubelet's readiness probe would find."""
        return self._answers("readyz")

    def get(self, path: str) -> str:
        """What its HTTP port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def _answers(self, path: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the operator ended; see {self._log}"
        try:
            self.get(path)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP: it does not even notice that time passes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> int:
        """SIGCONT; its exit code, as it has to end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        return self.wait()

    def wait(self, *, seconds: float = 30) -> int:
        """Its exit code, as it has to end by itself."""
        assert self._process is not None
        return self._process.wait(seconds * PATIENCE)

    def stop(self) -> int:
        """SIGTERM, as the kubelet ends a pod; its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def log(self) -> list[dict[str, object]]:
        """What it logged so far; each line is JSON, or the test fails."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture(scope="session")
def admin(control_plane: ControlPlane) -> Cluster:
    return connect_admin(control_plane)


@pytest.fixture(scope="session")
def user(control_plane: ControlPlane) -> User:
    """The administrator, as one who writes."""
    return user_of(control_plane.admin_kubeconfig)


@pytest.fixture(scope="module")
def operator(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = Operator(control_plane, tmp_path_factory.mktemp("operator") / "operator.log")
    made.start()
    try:
        yield made
        assert made.stop() == 0
    finally:
        made.kill()
    defects = [line for line in made.log() if "exception" in line or line["level"] == "ERROR"]
    assert defects == []


@pytest.fixture
def world(control_plane: ControlPlane, user: User, admin: Cluster) -> Iterator[World]:
    with making(control_plane, user, admin) as made:
        yield made


@pytest.fixture
def mortal(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Operator]:
    """An operator of the test's own, to be killed."""
    made = Operator(control_plane, tmp_path / "operator.log")
    yield made
    made.kill()


@pytest.fixture
def heartbeats(world: World) -> Iterator[Heartbeats]:
    """The Leases of nodes, renewed as long as the test wants it."""
    made, ended = Heartbeats(world), threading.Event()
    thread = threading.Thread(target=made.run, args=(ended,))
    thread.start()
    try:
        yield made
    finally:
        ended.set()
        thread.join()
