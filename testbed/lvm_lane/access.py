"""What the VM needs to speak to the control plane that runs outside of it: written there, read inside."""

import json
import secrets
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from testbed.control_plane import ControlPlane
from testbed.processes import TestbedError

_AUTHORITY, _ADMIN, _AGENT, _KUBECTL = "apiserver.crt", "admin.kubeconfig", "agent.kubeconfig", "kubectl.json"
_KUBECTL_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Access:
    """A control plane elsewhere; `directory` holds the credentials."""

    directory: Path

    @property
    def admin_kubeconfig(self) -> Path:
        """The administrator's."""
        return self.directory / _ADMIN

    @property
    def agent_kubeconfig(self) -> Path:
        """That of the agent of the one node."""
        return self.directory / _AGENT

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Have kubectl run outside, as the administrator, and return what it printed: in here it would take seconds.

        Raises:
            TestbedError: kubectl failed; the message has its answer.
        """
        known = json.loads((self.directory / _KUBECTL).read_text())
        request = urllib.request.Request(  # noqa: S310 - the URL is the lane's own
            known["url"],
            data=json.dumps({"arguments": arguments, "stdin": stdin}).encode(),
            headers={"Authorization": known["token"]},
        )
        with urllib.request.urlopen(request, timeout=_KUBECTL_TIMEOUT_SECONDS) as answer:  # noqa: S310 - as above
            found = json.load(answer)
        if "failure" in found:
            raise TestbedError(found["failure"])
        return str(found["printed"])


@dataclass(frozen=True)
class KubectlServer:
    """Where kubectl is run for who has the token."""

    port: int
    token: str


@contextmanager
def serving_kubectl(control_plane: ControlPlane) -> Iterator[KubectlServer]:
    """Run kubectl for the VM, at a port of 127.0.0.1, for the time of the block."""
    token = secrets.token_hex(16)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if not secrets.compare_digest(self.headers.get("Authorization", ""), token):
                self.send_error(403)
                return
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                answer = {"printed": control_plane.kubectl(*asked["arguments"], stdin=asked["stdin"])}
            except TestbedError as error:
                answer = {"failure": str(error)}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """What is asked is told by the tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield KubectlServer(server.server_port, token)
        finally:
            server.shutdown()
            thread.join()


def write_access(
    control_plane: ControlPlane,
    agent_kubeconfig: Path,
    kubectl: KubectlServer,
    directory: Path,
    *,
    address: str,
    seen_at: Path,
) -> None:
    """Write the files of an `Access` that finds what is on 127.0.0.1 at `address`, and `directory` at `seen_at`."""
    directory.mkdir(parents=True)
    shutil.copyfile(control_plane.authority, directory / _AUTHORITY)
    for name, kubeconfig in ((_ADMIN, control_plane.admin_kubeconfig), (_AGENT, agent_kubeconfig)):
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        cluster["server"] = f"https://{address}:{urlsplit(control_plane.url).port}"
        cluster["certificate-authority"] = str(seen_at / _AUTHORITY)
        _write_secret(directory / name, json.dumps(document))
    server = {"url": f"http://{address}:{kubectl.port}/", "token": kubectl.token}
    _write_secret(directory / _KUBECTL, json.dumps(server))


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
