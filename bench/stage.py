"""What the measurements run on: a control plane, a libvirt host, the operator, the agent and five storage domains."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diskmigration.api import names
from diskmigration.cluster import client
from testbed import scratch
from testbed.cluster import loops
from testbed.control_plane import running_control_plane
from testbed.libvirt_host import running_libvirt
from testbed.programs import SYSTEM_NAMESPACE, running_agent_as, running_operator
from tests.integration.agent.probes import Probes, free_port
from tests.integration.migrations.machines import Domain
from tests.integration.migrations.stack import NAMESPACE, NODE, Stack, make_domain, storage_domain
from tests.waiting import wait_until

# Where etcd has its data: in a cluster its syncs do not wait behind the copy on the hypervisor's disk, nor it for them.
# The storage domain APART is there too.
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory in it is made by mkdtemp
APART = "loop-memory"
"""The storage domain that does not share the others' disk."""
MIGRATIONS_AT_ONCE = 8


@dataclass(frozen=True)
class Thin:
    """The sizes of thin provisioning, in bytes."""

    watermark: int
    chunk: int

    def spec(self) -> dict[str, int]:
        """Return them as a StorageDomain has them, the chunk being the same with and without a mirror."""
        return {"highWatermark": self.watermark, "chunkSize": self.chunk, "replicationChunkSize": self.chunk}


@dataclass(frozen=True)
class Stage:
    """The running parts, and where they keep what they have."""

    stack: Stack
    directory: Path
    probes: Probes
    """Ask the agent at its HTTP port."""
    storage_domains: tuple[dict[str, Any], ...]
    """The StorageDomains as they were applied."""


@contextmanager
def running_stage(thin: Thin) -> Iterator[Stage]:
    """Run it all; at the end, an interrupt included, nothing of it is left."""
    with ExitStack() as running:
        directory, in_memory = _scratch(running, scratch.ON_DISK), _scratch(running, _IN_MEMORY)
        host = running.enter_context(running_libvirt(directory / "libvirt"))
        control_plane = running.enter_context(running_control_plane(in_memory / "control-plane"))
        control_plane.install_manifests()
        control_plane.create_node(NODE, {})
        control_plane.kubectl("create", "namespace", NAMESPACE)
        running.enter_context(running_operator(control_plane, directory))
        kubeconfig = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
        probes = Probes(free_port())
        options = [f"--http-port={probes.port}"]
        agent = running.enter_context(running_agent_as(kubeconfig, host, NODE, directory, *options))
        domains = {
            name: make_domain(directory, name, name.split("-")[0]) for name in ("file-a", "file-b", "loop-a", "loop-b")
        }
        domains[APART] = make_domain(in_memory, APART, "loop")
        stack = Stack(control_plane, client.connect(control_plane.admin_kubeconfig), host, agent, domains)
        documents = tuple(_document(domain, thin) for domain in domains.values())
        for document in documents:
            stack.apply(document)
        wait_until(lambda: _all_ready(stack), "the storage domains are ready", seconds=60)
        yield Stage(stack, directory, probes, documents)


def _document(domain: Domain, thin: Thin) -> dict[str, Any]:
    document = storage_domain(domain, maxConcurrentMigrations=MIGRATIONS_AT_ONCE)
    if domain.disk_type == "block":
        document["spec"]["thinProvisioning"] = thin.spec()
    return document


def _scratch(running: ExitStack, root: Path) -> Path:
    made = scratch.make_directory("dmb-", root=root)
    running.callback(shutil.rmtree, made)
    running.callback(loops.detach, made)
    return made


def _all_ready(stack: Stack) -> bool:
    found = stack.cluster.list(names.STORAGE_DOMAINS)
    return len(found) == len(stack.domains) and all(each.get("status", {}).get("readyNodes") == 1 for each in found)
