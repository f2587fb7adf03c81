"""One run: so many agents, so many migrations, on a control plane of its own. Everything is measured in it."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from diskmigration.api import names
from diskmigration.cluster.client import Cluster, connect
from testbed.control_plane import ControlPlane, running_control_plane
from testbed.programs import Program, running_operator
from tests.scale.load import Applied, PhaseWatch, apply_all
from tests.scale.measures import Served, quantile, refused, served, usage
from tests.scale.simulated_node import NAMESPACES, NARROW, PLACES, WIDE, domain_name
from tests.scale.stage import Stage, free_port

IDLE_SECONDS = 10.0
IDLE_SHARE = 0.15
"""An operator that takes less of a core than this over a second, three times running, is steady."""


@dataclass(frozen=True)
class Load:
    """How much; times in seconds, rates in a second."""

    agents: int
    migrations: int
    rate: float = 100.0
    step_seconds: float = 30.0
    calm: int = 0
    """As many before the others, at a rate that leaves the machine time."""
    calm_rate: float = 10.0
    queued: int = 0
    places: int = 0
    """Of the narrow pair of storage domains, for which `queued` migrations wait."""
    narrow_step_seconds: float = 0.5
    idle_seconds: float = IDLE_SECONDS
    least_patience_seconds: float = 600.0
    cluster_for: int = 0
    """How many migrations the nodes have VMs for, and the storage domains places; as many as there are, if more."""

    @property
    def room(self) -> int:
        """For how many migrations of the wide storage domains there are VMs and places."""
        return max(self.migrations + self.calm, self.cluster_for)

    @property
    def patience_seconds(self) -> float:
        """For each part of the run: more than two cores need for it, and the time of all phases."""
        return self.least_patience_seconds + 0.3 * self.migrations + 20.0 * self.step_seconds


@dataclass(frozen=True)
class Restart:
    """Of a new operator process: until it was ready, until it was steady, and its memory at its peak."""

    objects: str
    ready_seconds: float
    steady_seconds: float
    peak_bytes: int


@dataclass
class Figures:
    """What one run found. Sizes in bytes, times in seconds."""

    load: Load
    rate: float = 0.0
    latency_p50: float = 0.0
    latency_p99: float = 0.0
    latency_worst: float = 0.0
    calm_p50: float = 0.0
    calm_p99: float = 0.0
    whole_seconds: float = 0.0
    operator_peak_bytes: int = 0
    operator_idle_bytes: int = 0
    operator_apply_cpu_share: float = 0.0
    operator_cpu_seconds: float = 0.0
    api_server_cpu_seconds: float = 0.0
    api_server_peak_bytes: int = 0
    etcd_peak_bytes: int = 0
    stored_bytes: int = 0
    object_bytes: int = 0
    idle_requests_per_second: float = 0.0
    idle_operator_cpu_share: float = 0.0
    idle_api_server_cpu_share: float = 0.0
    idle_requests: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    apply_requests_per_second: float = 0.0
    watch_events: int = 0
    queue_seconds: float = 0.0
    queue_requests: dict[str, int] = field(default_factory=dict)
    queue_operator_cpu_seconds: float = 0.0
    restarts: list[Restart] = field(default_factory=list)
    agent_events_p50: float = 0.0
    agent_events_max: int = 0
    foreign_events: int = 0
    agents_that_heard_nothing: int = 0
    ended: int = 0
    defects: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        """How many migrations there were."""
        return self.load.migrations + self.load.calm + self.load.queued


def run(directory: Path, load: Load, tell: Callable[[str], None]) -> Figures:
    """Runs it all and takes it down again.

    Raises:
        TimeoutError: something did not come about in time; the logs in `directory` tell more.
    """
    with running_control_plane(directory / "control-plane") as control_plane:
        control_plane.install_manifests()
        return _Run(control_plane, directory, load, tell).whole()


class _Run:
    def __init__(self, control_plane: ControlPlane, directory: Path, load: Load, tell: Callable[[str], None]) -> None:
        self._control_plane = control_plane
        self._admin: Cluster = connect(control_plane.admin_kubeconfig)
        self._directory = directory
        self._load = load
        self._tell = tell
        self._found = Figures(load)
        self._port = free_port()

    def whole(self) -> Figures:
        load, found = self._load, self._found
        stage = Stage(self._control_plane, self._admin, self._directory)
        nodes = [f"node-{number:05}" for number in range(load.agents)]
        kubeconfigs = stage.make_nodes(nodes)
        stage.make_domains(self._places())
        namespaces = stage.make_namespaces(NAMESPACES)
        machines = -(-max(load.room, load.queued) // load.agents)
        steps = {WIDE: load.step_seconds, NARROW: load.narrow_step_seconds}
        with (
            running_operator(self._control_plane, self._directory, f"--http-port={self._port}") as operator,
            stage.agents(
                kubeconfigs, machines=machines, step_seconds=steps, wait_until_ready=self._wait_for_agents
            ) as fleet,
        ):
            self._tell(f"{load.agents} agents are there")
            self._measure_idle(operator)
            scheduled, succeeded = PhaseWatch(self._admin, "Scheduled"), PhaseWatch(self._admin, "Succeeded")
            if load.calm:
                self._measure_calm(nodes, namespaces, scheduled, succeeded)
            self._measure_load(operator, nodes, namespaces, scheduled, succeeded)
            if load.queued:
                self._measure_queue(operator, nodes, namespaces, succeeded)
            self._restart(operator, "all ended")
            found.object_bytes = self._object_bytes()
            found.refused = refused(self._metrics())
            found.operator_peak_bytes = max(
                [found.operator_peak_bytes, *(restart.peak_bytes for restart in found.restarts)]
            )
            found.ended = len(succeeded.seen)
            counts = fleet.stop()
            scheduled.stop()
            succeeded.stop()
        heard = [one["events"] for one in counts.values()]
        found.agent_events_p50, found.agent_events_max = quantile(heard, 0.5), max(heard)
        found.foreign_events = sum(one["foreign_events"] for one in counts.values())
        found.agents_that_heard_nothing = heard.count(0)
        found.defects = _defects(self._directory)
        return found

    def _measure_idle(self, operator: Program) -> None:
        found, seconds = self._found, self._load.idle_seconds
        self._until_steady(operator)
        before, cpu, served_cpu = self._served(), usage(operator.pid).cpu_seconds, self._api_server_cpu()
        time.sleep(seconds)
        after = self._served().since(before)
        found.idle_requests = after.requests
        found.idle_requests_per_second = after.total / seconds
        found.idle_operator_cpu_share = (usage(operator.pid).cpu_seconds - cpu) / seconds
        found.idle_api_server_cpu_share = (self._api_server_cpu() - served_cpu) / seconds
        found.operator_idle_bytes = usage(operator.pid).resident_bytes

    def _measure_calm(
        self, nodes: list[str], namespaces: list[str], scheduled: PhaseWatch, succeeded: PhaseWatch
    ) -> None:
        load, found = self._load, self._found
        applied = apply_all(
            self._admin, nodes, WIDE, namespaces, count=load.calm, rate=load.calm_rate, first=load.migrations
        )
        scheduled.wait_for(load.calm, WIDE, seconds=load.patience_seconds)
        waits = [scheduled.seen[name] - at for name, at in applied.at.items()]
        found.calm_p50, found.calm_p99 = quantile(waits, 0.5), quantile(waits, 0.99)
        succeeded.wait_for(load.calm, WIDE, seconds=load.patience_seconds)
        self._tell(f"{load.calm} migrations have ended, {load.calm_rate:.0f} a second")

    def _measure_load(
        self, operator: Program, nodes: list[str], namespaces: list[str], scheduled: PhaseWatch, succeeded: PhaseWatch
    ) -> None:
        load, found = self._load, self._found
        before, start = self._served(), time.monotonic()
        cpu, served_cpu = usage(operator.pid).cpu_seconds, self._api_server_cpu()
        applied = apply_all(self._admin, nodes, WIDE, namespaces, count=load.migrations, rate=load.rate)
        scheduled.wait_for(load.migrations + load.calm, WIDE, seconds=load.patience_seconds)
        took = time.monotonic() - start
        found.apply_requests_per_second = self._served().since(before).total / took
        found.operator_apply_cpu_share = (usage(operator.pid).cpu_seconds - cpu) / took
        self._take_latency(applied, scheduled)
        self._tell(f"{load.migrations} migrations are scheduled")
        found.operator_peak_bytes = usage(operator.pid).peak_bytes
        spent = usage(operator.pid).cpu_seconds - cpu
        self._restart(operator, "all active")
        succeeded.wait_for(load.migrations + load.calm, WIDE, seconds=load.patience_seconds)
        self._tell(f"{load.migrations} migrations have ended")
        found.whole_seconds = time.monotonic() - start
        after = self._served().since(before)
        found.requests, found.watch_events, found.stored_bytes = after.requests, after.watch_events, after.stored_bytes
        # Of both processes: what happens while the second one starts is its work too.
        found.operator_cpu_seconds = spent + usage(operator.pid).cpu_seconds
        found.operator_peak_bytes = max(found.operator_peak_bytes, usage(operator.pid).peak_bytes)
        found.api_server_cpu_seconds = self._api_server_cpu() - served_cpu
        pids = self._control_plane.pids
        found.api_server_peak_bytes = usage(pids["kube-apiserver"]).peak_bytes
        found.etcd_peak_bytes = usage(pids["etcd"]).peak_bytes

    def _take_latency(self, applied: Applied, scheduled: PhaseWatch) -> None:
        found = self._found
        waits = [scheduled.seen[name] - at for name, at in applied.at.items()]
        found.rate = applied.per_second
        found.latency_p50, found.latency_p99 = quantile(waits, 0.5), quantile(waits, 0.99)
        found.latency_worst = max(waits)

    def _measure_queue(self, operator: Program, nodes: list[str], namespaces: list[str], succeeded: PhaseWatch) -> None:
        load, found = self._load, self._found
        before, start, cpu = self._served(), time.monotonic(), usage(operator.pid).cpu_seconds
        apply_all(self._admin, nodes, NARROW, namespaces, count=load.queued, rate=load.rate)
        succeeded.wait_for(load.queued, NARROW, seconds=load.patience_seconds)
        found.queue_seconds = time.monotonic() - start
        found.queue_requests = self._served().since(before).requests
        found.queue_operator_cpu_seconds = usage(operator.pid).cpu_seconds - cpu
        found.operator_peak_bytes = max(found.operator_peak_bytes, usage(operator.pid).peak_bytes)
        self._tell(f"{load.queued} migrations have passed the queue")

    def _restart(self, operator: Program, objects: str) -> None:
        operator.stop()
        operator.start()
        start = time.monotonic()
        self._until(self._is_ready, "the operator is ready again")
        ready = time.monotonic() - start
        self._until_steady(operator)
        steady = time.monotonic() - start
        self._found.restarts.append(Restart(objects, ready, steady, usage(operator.pid).peak_bytes))
        self._tell(f"the operator was started anew with {objects}: ready in {ready:.1f} s")

    def _until_steady(self, operator: Program) -> None:
        """Waits until it does little; with agents at work, until it does no more than their events ask for."""
        self._until(self._is_ready, "the operator is ready")
        calm, before = 0, usage(operator.pid).cpu_seconds
        end = time.monotonic() + 60
        while calm < 3 and time.monotonic() < end:
            time.sleep(1)
            now = usage(operator.pid).cpu_seconds
            calm = calm + 1 if now - before < IDLE_SHARE else 0
            before = now

    def _places(self) -> dict[str, int]:
        """How many each storage domain has."""
        load = self._load
        pairs = {(WIDE, number): PLACES for number in range(0, load.room, PLACES)}
        pairs[NARROW, 0] = max(1, load.places)
        return {
            domain_name(pair, number, side): places
            for (pair, number), places in pairs.items()
            for side in ("source", "destination")
        }

    def _wait_for_agents(self, count: int) -> None:
        def are_ready() -> bool:
            domains = self._admin.list(names.STORAGE_DOMAINS)
            return all((domain.get("status") or {}).get("readyNodes") == count for domain in domains)

        self._until(are_ready, f"{count} agents announce their nodes")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _until(self, look: Callable[[], bool], what: str) -> None:
        patience = self._load.patience_seconds
        end = time.monotonic() + patience
        while not look():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {patience:.0f} s: {what}")
            time.sleep(0.2)

    def _served(self) -> Served:
        return served(self._metrics())

    def _metrics(self) -> str:
        return self._control_plane.kubectl("get", "--raw", "/metrics")

    def _api_server_cpu(self) -> float:
        return usage(self._control_plane.pids["kube-apiserver"]).cpu_seconds

    def _object_bytes(self) -> int:
        """One that has ended, as the apiserver stores it: JSON, with its managed fields."""
        name, namespace = f"{WIDE}-00000", "vms-0"
        path = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{namespace}/{names.DISK_MIGRATIONS}/{name}"
        return len(self._control_plane.kubectl("get", "--raw", path).encode())


def _defects(directory: Path) -> list[str]:
    """What the logs tell of defects of the programs, one line each."""
    return [
        f"{log.name}: {line}"
        for log in sorted(directory.glob("*.log"))
        for line in log.read_text().splitlines()
        if "Traceback" in line or '"exception"' in line
    ]
