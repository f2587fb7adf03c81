"""One move of a guest's disk, by the project or by the bare script, timed from outside."""

import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from kubernetes import client, config, watch

from bench.stage import Stage
from diskmigration.api import names
from testbed import processes
from testbed.guest.running import Guest
from tests.integration.migrations.machines import Machine
from tests.integration.migrations.stack import FINAL, NAMESPACE, Migration
from tests.waiting import wait_until

_BARE_MOVE = Path(__file__).with_name("bare_move.sh")
_TIMEOUT_SECONDS = 600
_POSITION_SECONDS = 60


@dataclass(frozen=True)
class Subject:
    """The guest whose disk moves; `place` is the name of the storage domain where it is."""

    stage: Stage
    guest: Guest
    machine: Machine
    capacity_bytes: int
    place: list[str] = field(default_factory=list)

    @property
    def at(self) -> str:
        """Where the disk is."""
        return self.place[-1]


@dataclass(frozen=True)
class Timed:
    """A move: its bounds in seconds of `time.monotonic`, and the guest's longest gap meanwhile."""

    started: float
    ended: float
    gap_seconds: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


def ours(subject: Subject, to: str, *, strategy: str) -> Timed:
    """Have the project move the disk: from before the object is made until it is seen as Succeeded."""
    ready(subject)
    started = time.monotonic()
    migration = begin(subject.stage, subject.machine, to, strategy=strategy)
    await_success(migration)
    return _timed(subject, to, started)


def bare(subject: Subject, to: str, *, strategy: str) -> Timed:
    """Have the script move the disk: from its start to its end."""
    ready(subject)
    domains = subject.stage.stack.domains
    source, destination = domains[subject.at], domains[to]
    chain = [path for path, _ in reversed(subject.machine.chain())]
    command: list[str | Path] = [
        _BARE_MOVE,
        *[subject.machine.host.uri, subject.machine.name, "vda", strategy, str(subject.capacity_bytes)],
        *[f"bare-{uuid.uuid4().hex[:8]}", source.kind, str(source.root), destination.kind, str(destination.root)],
        *chain,
    ]
    started = time.monotonic()
    processes.run(command, timeout_seconds=_TIMEOUT_SECONDS)
    return _timed(subject, to, started)


def ready(subject: Subject) -> None:
    """Wait until the project knows where the disk is and has nothing left to do with it."""
    wait_until(lambda: not subject.machine.has_journal(), "the disk is free", seconds=_POSITION_SECONDS)
    await_known(subject.stage, subject.machine, subject.at)


def await_known(stage: Stage, machine: Machine, domain: str) -> None:
    """Wait until the inventory has the VM's disk on that storage domain."""
    wait_until(lambda: _is_known(stage, machine, domain), "the inventory has the disk", seconds=_POSITION_SECONDS)


def begin(stage: Stage, machine: Machine, to: str, **spec: object) -> Migration:
    """Make the object by one request to the API."""
    migration = Migration(stage.stack, f"m-{uuid.uuid4().hex[:8]}")
    disk = {"virtualMachine": {"name": machine.name}, "disk": "vda"}
    body = {
        "metadata": {"name": migration.name, "namespace": NAMESPACE},
        "spec": {**disk, "destination": {"storageDomainName": to}, **spec},
    }
    stage.stack.cluster.create(names.DISK_MIGRATIONS, body, namespace=NAMESPACE)
    return migration


def await_success(migration: Migration) -> None:
    """Watch it, as kubectl does, until it has succeeded. Raises AssertionError when it ends otherwise.

    To ask every few milliseconds would take a quarter of a processor from the copy, and slow it.
    """
    api_client = config.new_client_from_config(str(migration.stack.control_plane.admin_kubeconfig))
    with api_client:
        for event in watch.Watch().stream(
            client.CustomObjectsApi(api_client).list_namespaced_custom_object,
            *(names.GROUP, names.VERSION, NAMESPACE, names.DISK_MIGRATIONS),
            field_selector=f"metadata.name={migration.name}",
            timeout_seconds=_TIMEOUT_SECONDS,
        ):
            status = event["object"].get("status", {})
            phase = status.get("phase")
            if phase == "Succeeded":
                return
            assert phase not in FINAL, f"{migration.name} is {phase}: {status.get('failure')}"  # noqa: S101 - as in Migration
    raise AssertionError(f"{migration.name} has not succeeded after {_TIMEOUT_SECONDS} s")


def _timed(subject: Subject, to: str, started: float) -> Timed:
    ended = time.monotonic()
    subject.place.append(to)
    return Timed(started, ended, subject.guest.console.longest_gap_between_seconds(started, ended))


def _is_known(stage: Stage, machine: Machine, domain: str) -> bool:
    machines = stage.stack.host_object().get("status", {}).get("virtualMachines", [])
    found = next((each for each in machines if each["uuid"] == machine.uuid), None)
    return found is not None and any(disk.get("storageDomainName") == domain for disk in found.get("disks", []))
