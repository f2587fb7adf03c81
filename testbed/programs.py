"""The project's two programs as processes from this checkout, each with its own service account's token."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed import processes
from testbed.control_plane import ControlPlane
from testbed.libvirt_host import LibvirtHost
from testbed.processes import TestbedError

SYSTEM_NAMESPACE = "diskmigration-system"
_SOURCE = Path(__file__).parents[1] / "operator"


class Program:
    """A program that can be stopped, killed and started again."""

    def __init__(
        self,
        arguments: list[str],
        *,
        log: Path,
        source: Path = _SOURCE,
        path: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._arguments = arguments
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (source, *path))),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.log = log

    def start(self) -> None:
        """Start it; it answers when it is ready, through the API."""
        self._process = processes.start(
            [sys.executable, "-m", *self._arguments], log=self.log, environment=self._environment
        )

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            TestbedError: it does not run.
        """
        if self._process is None:
            raise TestbedError("The program does not run.")
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait for its end."""
        if self._process is not None:
            processes.stop(self._process)
            self._process = None

    def wait(self) -> int:
        """Wait for its end, which nobody asked for, and return its exit status."""
        if self._process is None:
            raise TestbedError("The program does not run.")
        status = self._process.wait(120)
        self._process = None
        return status

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), and return at once."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it at once (SIGKILL) and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def running_with(
        self, *options: str, module: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Iterator[None]:
        """For the block it runs with further options, or as another module; it is started again before and after."""
        before = self._arguments, self._environment
        self.stop()
        self._arguments = [module or self._arguments[0], *self._arguments[1:], *options]
        self._environment = {**self._environment, **(environment or {})}
        self.start()
        try:
            yield
        finally:
            self.stop()
            self._arguments, self._environment = before
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """For the block it is there and does nothing (SIGSTOP), and does not even notice that time passes."""
        if self._process is None:
            raise TestbedError("The program does not run.")
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def running_operator(control_plane: ControlPlane, directory: Path, *options: str) -> Iterator[Program]:
    """Run the operator until the end of the block; it is alone, and has no one to lead."""
    kubeconfig = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-operator")
    arguments = ["diskmigration.controller", f"--kubeconfig={kubeconfig}", "--http-port=0", "--no-leader-elect"]
    arguments += options
    yield from _running(Program(arguments, log=directory / "operator.log"))


@contextmanager
def running_agent(
    control_plane: ControlPlane, host: LibvirtHost, node: str, directory: Path, *options: str
) -> Iterator[Program]:
    """Run the agent of one node until the end of the block."""
    kubeconfig = control_plane.account_kubeconfig(SYSTEM_NAMESPACE, "diskmigration-agent", node=node)
    with running_agent_as(kubeconfig, host, node, directory, *options) as program:
        yield program


@contextmanager
def running_agent_as(
    kubeconfig: Path,
    host: LibvirtHost,
    node: str,
    directory: Path,
    *options: str,
    module: str = "diskmigration.agent",
    path: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """The same, with credentials that are there already; or as another module, on a path that has it."""
    arguments = [
        module,
        f"--kubeconfig={kubeconfig}",
        f"--node-name={node}",
        f"--libvirt-uri={host.uri}",
        f"--lock-file={directory / f'agent-{node}.lock'}",
        f"--state-directory={directory / f'agent-{node}'}",
        "--http-port=0",
        *options,
    ]
    yield from _running(
        Program(arguments, log=directory / f"agent-{node}.log", path=path, environment=environment or {})
    )


def _running(program: Program) -> Iterator[Program]:
    program.start()
    try:
        yield program
    finally:
        program.stop()
