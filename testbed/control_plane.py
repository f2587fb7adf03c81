"""A real etcd and kube-apiserver on free ports of 127.0.0.1, with RBAC on."""

import json
import os
import secrets
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed import processes
from testbed.binaries import Binaries, control_plane_binaries
from testbed.processes import TestbedError

_REPOSITORY = Path(__file__).resolve().parents[1]
_MANIFESTS = _REPOSITORY / "deploy" / "base"
_TOKEN_DURATION = "24h"  # noqa: S105 - a duration, no secret


class ControlPlane:
    """A running control plane. Made by `running_control_plane`."""

    def __init__(self, directory: Path, binaries: Binaries, etcd_url: str, port: int) -> None:
        self._directory = directory
        self._binaries = binaries
        self._etcd_url = etcd_url
        self._port = port
        self._certificates = directory / "certificates"
        self._log = directory / "kube-apiserver.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._admin_token = secrets.token_hex(16)
        self.admin_kubeconfig = directory / "admin.kubeconfig"
        self.kubectl_path = binaries.kubectl
        self.url = f"https://127.0.0.1:{port}"
        _make_service_account_key(directory)
        self._tokens = directory / "tokens.csv"
        _write_secret(self._tokens, f'{self._admin_token},admin,admin,"system:masters"\n')

    def start_api_server(self) -> None:
        """Start the apiserver on its port, with what etcd holds, and wait until it is ready."""
        if self._server is not None:
            raise TestbedError("The apiserver runs already.")
        keys = self._directory
        self._server = processes.start(
            [
                self._binaries.kube_apiserver,
                f"--etcd-servers={self._etcd_url}",
                f"--secure-port={self._port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--cert-dir={self._certificates}",
                f"--service-account-key-file={keys / 'service-account.pub'}",
                f"--service-account-signing-key-file={keys / 'service-account.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--token-auth-file={self._tokens}",
                "--authorization-mode=Node,RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--allow-privileged=true",
            ],
            log=self._log,
        )
        processes.wait_for(
            self._is_ready, what=f"Waiting for the apiserver at {self.url}", process=self._server, log=self._log
        )
        _write_kubeconfig(self.admin_kubeconfig, self.url, self._authority(), user="admin", token=self._admin_token)

    def stop_api_server(self) -> None:
        """Stop the apiserver and wait for its end; etcd goes on, so `start_api_server` brings all objects back."""
        if self._server is not None:
            # Left alone, it waits for its clients' watches for up to a minute; etcd has everything already.
            processes.stop(self._server, timeout_seconds=2)
            self._server = None

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl, as the administrator unless `kubeconfig` says otherwise, and return what it printed.

        Raises:
            TestbedError: kubectl failed; the message has its answer.
        """
        return processes.run(
            [self._binaries.kubectl, f"--cache-dir={self._directory / 'kubectl-cache'}", *arguments],
            stdin=stdin,
            environment=self.environment(kubeconfig),
        )

    def environment(self, kubeconfig: Path | None = None) -> Mapping[str, str]:
        """Return this process's environment with `KUBECONFIG` set, to the administrator's unless given."""
        return {**os.environ, "KUBECONFIG": str(kubeconfig or self.admin_kubeconfig)}

    def account_kubeconfig(self, namespace: str, account: str, *, node: str | None = None) -> Path:
        """Return a kubeconfig with a fresh token of a service account, asked for through TokenRequest.

        With `node` the token is bound to a Pod made on that node, as a DaemonSet's is: it carries the claim
        `authentication.kubernetes.io/node-name`.
        """
        command = ["create", "token", account, f"--namespace={namespace}", f"--duration={_TOKEN_DURATION}"]
        name = account
        if node is not None:
            name = f"{account}-{node}"
            self.kubectl("apply", "--filename=-", stdin=json.dumps(_pod(namespace, name, account, node)))
            command += ["--bound-object-kind=Pod", f"--bound-object-name={name}"]
        token = self.kubectl(*command).strip()
        path = self._directory / f"{namespace}.{name}.kubeconfig"
        _write_kubeconfig(path, self.url, self._authority(), user=name, token=token)
        return path

    def install_manifests(self) -> None:
        """Apply deploy/base (the CRDs, the namespace, the accounts and their roles) and wait for the CRDs."""
        self.kubectl("apply", "--server-side", f"--kustomize={_MANIFESTS}")
        names = self.kubectl("get", "customresourcedefinitions", "--output=name").split()
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)

    def create_node(self, name: str, labels: Mapping[str, str]) -> None:
        """Create a Node that is Ready, as a kubelet would register it."""
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
        }
        self.kubectl("create", "--filename=-", stdin=json.dumps(node))
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        patch = json.dumps({"status": {"conditions": [ready]}})
        self.kubectl("patch", "node", name, "--subresource=status", f"--patch={patch}")

    def _authority(self) -> Path:
        # The apiserver signs its own certificate, and keeps the signer in the same file.
        return self._certificates / "apiserver.crt"

    def _is_ready(self) -> bool:
        if not self._authority().exists():
            return False
        request = urllib.request.Request(  # noqa: S310 - the URL is ours, always https
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._admin_token}"}
        )
        try:
            context = ssl.create_default_context(cafile=str(self._authority()))
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:  # noqa: S310 - as above
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError):
            return False


@contextmanager
def running_control_plane(directory: Path) -> Iterator[ControlPlane]:
    """Run a control plane that keeps its state in `directory` (made where missing); both processes end with it.

    Raises:
        TestbedError: a program could not be had, or did not become ready.
    """
    binaries = control_plane_binaries()
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        client_port, peer_port, api_port = _free_ports(3)
        etcd_url = f"http://127.0.0.1:{client_port}"
        log = directory / "etcd.log"
        etcd = processes.start(
            [
                binaries.etcd,
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
                # Nothing here outlives the machine's crash.
                "--unsafe-no-fsync",
            ],
            log=log,
        )
        running.callback(processes.stop, etcd)
        processes.wait_for(lambda: _accepts(client_port), what="Waiting for etcd", process=etcd, log=log)
        control_plane = ControlPlane(directory, binaries, etcd_url, api_port)
        running.callback(control_plane.stop_api_server)
        control_plane.start_api_server()
        yield control_plane


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _make_service_account_key(directory: Path) -> None:
    private, public = directory / "service-account.key", directory / "service-account.pub"
    processes.run(["openssl", "genrsa", "-out", private, "2048"])
    processes.run(["openssl", "rsa", "-in", private, "-pubout", "-out", public])


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _write_kubeconfig(path: Path, url: str, authority: Path, *, user: str, token: str) -> None:
    # JSON is YAML, so every client reads it.
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        "current-context": "testbed",
    }
    _write_secret(path, json.dumps(config, indent=2))


def _pod(namespace: str, name: str, account: str, node: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccountName": account,
            "nodeName": node,
            "containers": [{"name": "process", "image": "runs-on-this-machine"}],
        },
    }
