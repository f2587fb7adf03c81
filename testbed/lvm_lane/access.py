"""What the VM needs to speak to the control plane that runs outside of it: written there, read inside."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from testbed import processes
from testbed.control_plane import ControlPlane

_AUTHORITY, _KUBECTL, _ADMIN, _AGENT = "apiserver.crt", "kubectl", "admin.kubeconfig", "agent.kubeconfig"


@dataclass(frozen=True)
class Access:
    """A control plane elsewhere; `directory` holds kubectl and the credentials."""

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
        """Run kubectl as the administrator, and return what it printed.

        Raises:
            TestbedError: kubectl failed; the message has its answer.
        """
        return processes.run(
            [self.directory / _KUBECTL, "--cache-dir=/run/kubectl-cache", *arguments],
            stdin=stdin,
            environment={**os.environ, "KUBECONFIG": str(self.admin_kubeconfig)},
        )


def write_access(
    control_plane: ControlPlane, agent_kubeconfig: Path, directory: Path, *, address: str, seen_at: Path
) -> None:
    """Write the files of an `Access` that finds the control plane at `address`, and `directory` at `seen_at`."""
    directory.mkdir(parents=True)
    shutil.copyfile(control_plane.authority, directory / _AUTHORITY)
    shutil.copy(control_plane.kubectl_path, directory / _KUBECTL)
    for name, kubeconfig in ((_ADMIN, control_plane.admin_kubeconfig), (_AGENT, agent_kubeconfig)):
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        cluster["server"] = f"https://{address}:{urlsplit(control_plane.url).port}"
        cluster["certificate-authority"] = str(seen_at / _AUTHORITY)
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(json.dumps(document))
