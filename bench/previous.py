"""The agent as it was before one reader read libvirt for all of it: the rival of today's, from git's history."""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.stage import Stage
from testbed import processes
from testbed.control_plane import running_control_plane
from testbed.processes import TestbedError
from testbed.programs import SYSTEM_NAMESPACE, Program
from tests.integration.migrations.stack import NODE
from tests.waiting import wait_until

BESIDE = "the previous design"
_REPOSITORY = Path(__file__).resolve().parents[1]
_NEW_IN_TODAYS = "operator/diskmigration/agent/node/cache.py"
"""The module whose first commit ends the previous design."""
_READY_SECONDS = 120


@contextmanager
def previous_design(stage: Stage) -> Iterator[Program]:
    """For the block there is a control plane with the API of the previous design; its agent does not run yet.

    Today's API has other names, so that agent could neither read the storage domains nor publish its node there.
    """
    files = _extracted(stage.directory / "previous")
    with running_control_plane(stage.directory / "previous-control-plane") as control_plane:
        control_plane.kubectl("apply", "--server-side", f"--kustomize={files / 'deploy' / 'base'}")
        names = control_plane.kubectl("get", "customresourcedefinitions", "--output=name").split()
        control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
        control_plane.create_node(NODE, {})
        for document in stage.storage_domains:
            control_plane.kubectl("apply", "--filename=-", stdin=json.dumps(document))
        kubeconfig = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=NODE)
        arguments = [
            "diskmigration.agent",
            f"--kubeconfig={kubeconfig}",
            f"--node-name={NODE}",
            f"--libvirt-uri={stage.stack.host.uri}",
            f"--lock-file={stage.directory / f'agent-{NODE}.lock'}",
            f"--http-port={stage.probes.port}",
        ]
        yield Program(arguments, log=stage.directory / "previous-agent.log", source=files / "operator")


@contextmanager
def running_instead(stage: Stage, previous: Program) -> Iterator[None]:
    """For the block the previous design's agent runs in the place of today's."""
    with without_agent(stage):
        previous.start()
        try:
            await_ready(stage)
            yield
        finally:
            previous.stop()
    await_ready(stage)


@contextmanager
def without_agent(stage: Stage) -> Iterator[None]:
    """For the block no agent runs; today's is started again at its end."""
    stage.stack.agent.stop()
    try:
        yield
    finally:
        stage.stack.agent.start()


def await_ready(stage: Stage) -> None:
    """Wait until the agent that was just started is ready."""
    wait_until(stage.probes.is_ready, "the agent is ready", seconds=_READY_SECONDS)


def _extracted(directory: Path) -> Path:
    """Write the previous design's files below the directory.

    Raises:
        TestbedError: the checkout has no history that goes so far back.
    """
    git = ["git", "-C", str(_REPOSITORY)]
    found = processes.run([*git, "log", "--diff-filter=A", "--format=%H", "--", _NEW_IN_TODAYS]).split()
    if not found:
        raise TestbedError(f"git knows no commit that added {_NEW_IN_TODAYS}: the previous design needs the history.")
    directory.mkdir()
    archive = directory / "files.tar"
    # The newest commit comes first; the file was new in the last one.
    processes.run([*git, "archive", f"--output={archive}", f"{found[-1]}^", "crds", "deploy", "operator"])
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    return directory
