"""A real etcd and kube-apiserver on free ports of 127.0.0.1, with RBAC on."""

import ipaddress
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed import processes
from testbed.binaries import Binaries, control_plane_binaries
from testbed.processes import TestbedError

_REPOSITORY = Path(__file__).resolve().parents[1]
_MANIFESTS = _REPOSITORY / "deploy" / "base"
_NAMESPACE = "diskmigration-system"
# Each account with the admission policy that fences it.
_FENCES = {
    "diskmigration-agent": "diskmigration-node-fence",
    "diskmigration-operator": "diskmigration-operator-fence",
}
# The default collects garbage whenever the heap has doubled: a sixth of the processor time of a server that lives for
# minutes, and of a kubectl.
_GO = {"GOGC": "400"}
_TOKEN_DURATION = "24h"  # noqa: S105 - a duration, no secret


@dataclass(frozen=True)
class Ports:
    """The TCP ports of a control plane."""

    etcd: int
    etcd_peer: int
    api: int


@dataclass(frozen=True)
class Site:
    """Where a control plane runs and whom it serves; as it is, clients of this machine alone."""

    address: str = "127.0.0.1"
    """The apiserver's, which this process must reach."""
    ports: Ports | None = None
    """Free ones of 127.0.0.1 unless given."""
    prefix: Sequence[str] = ()
    """What starts a program there (nsenter and its options) without a process of its own."""
    service_addresses: str = "10.0.0.0/24"
    users: Mapping[str, str] = field(default_factory=dict)
    """The group, or none (""), of each user that has a token beside the administrator."""
    api_server_options: Sequence[str] = ()


class ControlPlane:
    """A running control plane. Made by `running_control_plane`."""

    def __init__(self, directory: Path, binaries: Binaries, site: Site, ports: Ports) -> None:
        self._directory = directory
        self._binaries = binaries
        self._site = site
        self._ports = ports
        self._certificates = directory / "certificates"
        self._log = directory / "kube-apiserver.log"
        self._server: subprocess.Popen[bytes] | None = None
        self._etcd: subprocess.Popen[bytes] | None = None
        self._user_tokens = {user: secrets.token_hex(16) for user in ("admin", *site.users)}
        self.admin_kubeconfig = directory / "admin.kubeconfig"
        self.kubectl_path = binaries.kubectl
        self.url = f"https://{site.address}:{ports.api}"
        self.service_account_key = directory / "service-account.key"
        # The apiserver signs its own certificate, and keeps the signer in the same file.
        self.authority = self._certificates / "apiserver.crt"
        _make_service_account_key(directory)
        self._tokens = directory / "tokens.csv"
        groups = {"admin": "system:masters", **site.users}
        lines = [f'{token},{user},{user},"{groups[user]}"\n' for user, token in self._user_tokens.items()]
        _write_secret(self._tokens, "".join(lines))

    def start_etcd(self) -> None:
        """Start etcd on its port, with what it held, and wait until it takes connections."""
        if self._etcd is not None:
            raise TestbedError("etcd runs already.")
        url = f"http://127.0.0.1:{self._ports.etcd}"
        log = self._directory / "etcd.log"
        self._etcd = processes.start(
            [
                *self._site.prefix,
                self._binaries.etcd,
                f"--data-dir={self._directory / 'etcd'}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls=http://127.0.0.1:{self._ports.etcd_peer}",
                # Nothing here outlives the machine's crash.
                "--unsafe-no-fsync",
            ],
            log=log,
            environment={**os.environ, **_GO},
        )
        processes.wait_for(
            lambda: _accepts(self._site, self._ports.etcd), what="Waiting for etcd", process=self._etcd, log=log
        )

    def stop_etcd(self) -> None:
        """Stop etcd and wait for its end; the apiserver goes on, and answers with errors."""
        if self._etcd is not None:
            processes.stop(self._etcd)
            self._etcd = None

    def kill_etcd(self) -> None:
        """Kill etcd (SIGKILL) and wait for its end."""
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
            self._etcd = None

    def back_up(self, directory: Path) -> None:
        """Copy what etcd holds; it and the apiserver are stopped meanwhile."""
        with self._stopped():
            shutil.copytree(self._directory / "etcd", directory)

    def restore(self, directory: Path) -> None:
        """Have etcd hold what it held at a backup, with its revisions; the apiserver is started anew too."""
        with self._stopped():
            shutil.rmtree(self._directory / "etcd")
            shutil.copytree(directory, self._directory / "etcd")

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        self.stop_api_server()
        self.stop_etcd()
        try:
            yield
        finally:
            self.start_etcd()
            self.start_api_server()

    @property
    def pids(self) -> Mapping[str, int]:
        """The process ids of the programs that run, by name."""
        running = {"etcd": self._etcd, "kube-apiserver": self._server}
        return {name: process.pid for name, process in running.items() if process is not None}

    def start_api_server(self) -> None:
        """Start the apiserver on its port, with what etcd holds, and wait until it is ready."""
        if self._server is not None:
            raise TestbedError("The apiserver runs already.")
        endpoints = []
        if ipaddress.ip_address(self._site.address).is_loopback:
            # No pod could reach it there, and from 1.37 on the apiserver refuses to name such an address to them.
            endpoints.append("--endpoint-reconciler-type=none")
        self._server = processes.start(
            [
                *self._site.prefix,
                self._binaries.kube_apiserver,
                f"--etcd-servers=http://127.0.0.1:{self._ports.etcd}",
                f"--secure-port={self._ports.api}",
                f"--bind-address={self._site.address}",
                f"--advertise-address={self._site.address}",
                f"--cert-dir={self._certificates}",
                f"--service-account-key-file={self._directory / 'service-account.pub'}",
                f"--service-account-signing-key-file={self.service_account_key}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--token-auth-file={self._tokens}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                f"--service-cluster-ip-range={self._site.service_addresses}",
                "--allow-privileged=true",
                *endpoints,
                *self._site.api_server_options,
            ],
            log=self._log,
            environment={**os.environ, **_GO},
        )
        processes.wait_for(
            self._is_ready, what=f"Waiting for the apiserver at {self.url}", process=self._server, log=self._log
        )
        self._write_kubeconfig(self.admin_kubeconfig, user="admin", token=self._user_tokens["admin"])

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
            environment={**self.environment(kubeconfig), **_GO},
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
        return self.token_kubeconfig(f"{namespace}.{name}", self.kubectl(*command).strip())

    def token_kubeconfig(self, user: str, token: str) -> Path:
        """Return a kubeconfig with this token, which it calls `user`."""
        path = self._directory / f"{user.replace(':', '.')}.kubeconfig"
        self._write_kubeconfig(path, user=user, token=token)
        return path

    def user_kubeconfig(self, user: str) -> Path:
        """Return a kubeconfig of one of the site's users."""
        return self.token_kubeconfig(user, self._user_tokens[user])

    def install_manifests(self, kustomization: Path = _MANIFESTS, *, namespace: str = _NAMESPACE) -> None:
        """Apply deploy/base, or what stands on it, and wait until its CRDs, roles and policies are in force.

        `namespace` is the one in which the service accounts are.
        """
        self.kubectl("apply", "--server-side", f"--kustomize={kustomization}")
        names = self.kubectl("get", "customresourcedefinitions", "--output=name").split()
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
        # It notes this when it has taken them in.
        self.kubectl("wait", "--for=condition=Dangling=False", "--timeout=30s", "flowschema/diskmigration-leases")
        for account, policy in _FENCES.items():
            self._wait_until_refused(namespace, account, policy)

    def _wait_until_refused(self, namespace: str, account: str, policy: str) -> None:
        """Wait until the policy keeps a service account from making a Lease that is not its own."""
        if self._server is None:
            raise TestbedError("The apiserver does not run.")
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "probe", "namespace": namespace},
        }
        create = ["create", "--dry-run=server", "--filename=-", f"--as=system:serviceaccount:{namespace}:{account}"]

        def is_refused() -> bool:
            try:
                self.kubectl(*create, stdin=json.dumps(lease))
            except TestbedError as error:
                # Until the roles are known, it is they that refuse it.
                return policy in str(error)
            return False

        processes.wait_for(is_refused, what=f"Waiting for the policy {policy}", process=self._server, log=self._log)

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

    def _write_kubeconfig(self, path: Path, *, user: str, token: str) -> None:
        # JSON is YAML, so every client reads it.
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "testbed", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
            "current-context": "testbed",
        }
        _write_secret(path, json.dumps(config, indent=2))

    def _is_ready(self) -> bool:
        if not self.authority.exists():
            return False
        request = urllib.request.Request(  # noqa: S310 - the URL is ours, always https
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._user_tokens['admin']}"}
        )
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:  # noqa: S310 - as above
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError):
            return False


@contextmanager
def running_control_plane(directory: Path, site: Site | None = None) -> Iterator[ControlPlane]:
    """Run a control plane that keeps its state in `directory` (made where missing); both processes end with it.

    Raises:
        TestbedError: a program could not be had, or did not become ready.
    """
    site = site or Site()
    binaries = control_plane_binaries()
    directory.mkdir(parents=True, exist_ok=True)
    ports = site.ports or _free_ports()
    with ExitStack() as running:
        control_plane = ControlPlane(directory, binaries, site, ports)
        running.callback(control_plane.stop_etcd)
        control_plane.start_etcd()
        running.callback(control_plane.stop_api_server)
        control_plane.start_api_server()
        yield control_plane


def _free_ports() -> Ports:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        etcd, etcd_peer, api = (each.getsockname()[1] for each in sockets)
        return Ports(etcd=etcd, etcd_peer=etcd_peer, api=api)


def _accepts(site: Site, port: int) -> bool:
    # The site's 127.0.0.1 may be another than this process's.
    attempt = [*site.prefix, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]
    return subprocess.run(attempt, capture_output=True, check=False).returncode == 0


def _make_service_account_key(directory: Path) -> None:
    private, public = directory / "service-account.key", directory / "service-account.pub"
    # One of RSA takes half a second.
    processes.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private])
    processes.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public])


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


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
