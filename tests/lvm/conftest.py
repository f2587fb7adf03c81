"""A node with volume groups, its agent, and the control plane outside: one for all these tests."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diskmigration.cluster import client
from testbed.libvirt_host import running_libvirt
from testbed.lvm_lane.access import Access
from testbed.lvm_lane.inside import ACCESS, NODE, PROJECT, RESULTS
from testbed.programs import running_agent_as
from tests.integration.agent.probes import Probes, free_port
from tests.integration.migrations.machines import Domain, Machine, make_machine, remove_machine
from tests.integration.migrations.stack import NAMESPACE, Stack, make_domain
from tests.lvm.groups import run
from tests.lvm.wrappers import Wrappers

_GROUPS = ("lvm-a", "lvm-b", "lvm-small")
_REPORTED = "lv_name,lv_size,lv_active,lv_tags"


@pytest.fixture(scope="session")
def directory() -> Path:
    """Where all these parts keep what they have; it goes with the VM."""
    directory = Path("/var/tmp/lane")  # noqa: S108 - nobody else is in the VM
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def groups() -> dict[str, Domain]:
    """The volume groups, each on a disk of the VM."""
    for name in _GROUPS:
        run("vgcreate", "--yes", name, f"/dev/disk/by-id/virtio-{name}")
    return {name: Domain(name, "lvm", Path("/dev") / name) for name in _GROUPS}


@pytest.fixture(scope="session")
def whole_wrappers(directory: Path) -> Wrappers:
    """What the agent finds in the place of LVM's commands."""
    wrappers = Wrappers(directory / "wrappers")
    wrappers.install()
    return wrappers


@pytest.fixture
def wrappers(whole_wrappers: Wrappers) -> Iterator[Wrappers]:
    """The same for one test, at whose end the commands are again as they were."""
    yield whole_wrappers
    whole_wrappers.disarm()


@pytest.fixture(scope="session")
def probes() -> Probes:
    """The agent's HTTP port."""
    return Probes(free_port())


@pytest.fixture(scope="session")
def stack(directory: Path, groups: dict[str, Domain], whole_wrappers: Wrappers, probes: Probes) -> Iterator[Stack]:
    """The whole of it, ready: all volume groups and a directory are reached by the node."""
    access = Access(PROJECT / ACCESS)
    access.kubectl("create", "namespace", NAMESPACE)
    domains = {**groups, "file-a": make_domain(directory, "file-a", "file")}
    log = directory / f"agent-{NODE}.log"
    with pytest.MonkeyPatch.context() as patched, running_libvirt(directory / "libvirt") as host:
        patched.setenv("PATH", f"{whole_wrappers.directory}:{os.environ['PATH']}")
        options = f"--http-port={probes.port}"
        with running_agent_as(access.agent_kubeconfig, host, NODE, directory, options) as agent:
            try:
                stack = Stack(access, client.connect(access.admin_kubeconfig), host, agent, domains)
                stack.make_ready(domains)
                yield stack
            finally:
                for kept in (log, host.log):
                    shutil.copy(kept, RESULTS)


@pytest.fixture
def machines(stack: Stack) -> Iterator[Callable[..., Machine]]:
    """Makes VMs on one of the storage domains, by its name; at the end they and all volumes go."""
    made: list[Machine] = []

    def make(domain: str, **options: Any) -> Machine:
        machine = make_machine(stack.host, stack.domains[domain], **options)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        remove_machine(machine)
    for domain in stack.domains.values():
        if domain.kind == "lvm":
            run("lvremove", "--yes", domain.root.name)
        else:
            for entry in domain.root.iterdir():
                entry.unlink()


@pytest.fixture
def lvs(request: pytest.FixtureRequest) -> Callable[[str], dict[str, int]]:
    """Adds what `lvs` says now to the lane's report, under the test's name; returns each volume's size in bytes."""

    def report(when: str) -> dict[str, int]:
        name = request.node.name
        with (RESULTS / "lvs.txt").open("a") as text:
            text.write(f"{name}: {when}\n{run('lvs', '-o', f'vg_name,{_REPORTED}', *_GROUPS)}\n")
        rows = run(
            *["lvs", "--noheadings", "--units", "b", "--nosuffix", "--separator", " ", "-o", "vg_name,lv_name,lv_size"],
            *_GROUPS,
        )
        return {f"{group}/{volume}": int(size) for group, volume, size in (row.split() for row in rows.splitlines())}

    return report


@pytest.fixture
def filler(groups: dict[str, Domain]) -> Iterator[Callable[[int], None]]:
    """Takes what a group's small one has, but for so many MiB, with a volume of somebody else's."""

    def fill(left_mebibytes: int) -> None:
        group = groups["lvm-small"].root.name
        free = int(float(run("vgs", "--noheadings", "--units", "m", "--nosuffix", "-o", "vg_free", group)))
        run("lvcreate", "--yes", "--size", f"{free - left_mebibytes}m", "--name", "somebody-elses", group)

    yield fill
    subprocess.run(["lvremove", "--yes", "lvm-small/somebody-elses"], capture_output=True, check=False)
