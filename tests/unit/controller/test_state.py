"""The state against random histories: whatever is observed in whatever order, no place is given twice."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diskmigration.controller.liveness import Liveness
from diskmigration.controller.placement_outcome import Placement, Refusal
from diskmigration.controller.state import ControllerState, Wake
from tests.unit.controller.builders import disk, domain_body, host_body, machine, migration_body

LIMIT = 2
MACHINES = [f"vm-{number}" for number in range(6)]
OWNERS = {vm: ("red", "green")[number % 2] for number, vm in enumerate(MACHINES)}


@dataclass
class Woken:
    migrations: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)


def opened(
    migrations: list[dict[str, Any]],
    *,
    limit: int = LIMIT,
    machines: list[dict[str, Any]] | None = None,
    namespaces: tuple[str, ...] = ("vms",),
) -> tuple[ControllerState, Woken]:
    woken = Woken()
    state = ControllerState(
        system_namespace="system", wake=Wake(migration=woken.migrations.add, domain=woken.domains.add)
    )
    for name in "ab":
        state.observe_domain(domain_body(name, limit=limit, namespaces=namespaces))
    state.observe_host(host_body("n1", machines or [machine(name) for name in MACHINES]))
    state.set_liveness(Liveness(frozenset({"n1"})))
    for body in migrations:
        state.observe_migration(body)
    state.scheduler.open()
    return state, woken


def placed(state: ControllerState, key: str) -> Placement:
    outcome = state.scheduler.judge(state.migrations.active[key])
    assert isinstance(outcome, Placement)
    return outcome


def delegated(body: dict[str, Any], *, phase: str = "Scheduled", allocated: int = 0) -> dict[str, Any]:
    metadata = body["metadata"]
    return migration_body(
        metadata["name"],
        namespace=metadata["namespace"],
        vm=body["spec"]["virtualMachine"]["name"],
        status={
            "nodeName": "n1",
            "phase": phase,
            "allocatedBytes": allocated,
            "source": {"storageDomainName": "a", "type": "File"},
            "destination": {"storageDomainName": "b", "type": "File"},
        },
    )


def accepted(body: dict[str, Any]) -> dict[str, Any]:
    metadata = body["metadata"]
    return migration_body(
        metadata["name"],
        namespace=metadata["namespace"],
        vm=body["spec"]["virtualMachine"]["name"],
        created=float(metadata["name"].removeprefix("m")),
        status={
            "source": {"storageDomainName": "a", "type": "File"},
            "destination": {"storageDomainName": "b", "type": "File"},
        },
    )


def test_the_place_of_a_delegated_one_is_taken_from_the_first_moment_after_a_restart() -> None:
    first = migration_body("m0", vm="vm-0")
    state, _ = opened([delegated(first), migration_body("m1", vm="vm-1", created=5)], limit=1)
    assert not state.scheduler.ask_for_place(state.migrations.active["vms/m1"], placed(state, "vms/m1"))
    assert (state.scheduler.active_on("a"), state.scheduler.active_on("b"), state.scheduler.queue_length) == (1, 1, 1)


def test_a_final_phase_frees_the_place_at_once_and_wakes_the_next() -> None:
    first = migration_body("m0", vm="vm-0")
    state, woken = opened([delegated(first), migration_body("m1", vm="vm-1")], limit=1)
    woken.migrations.clear()
    state.observe_migration(delegated(first, phase="Succeeded"))
    assert "vms/m1" in woken.migrations
    assert state.scheduler.ask_for_place(state.migrations.active["vms/m1"], placed(state, "vms/m1"))


def test_a_deletion_seen_only_by_its_event_frees_the_place() -> None:
    first = delegated(migration_body("m0", vm="vm-0"))
    state, _ = opened([first, migration_body("m1", vm="vm-1")], limit=1)
    state.forget_migration("vms/m0", first["metadata"]["uid"])
    assert state.scheduler.ask_for_place(state.migrations.active["vms/m1"], placed(state, "vms/m1"))


def test_of_two_for_one_disk_the_younger_is_busy_until_the_older_has_ended() -> None:
    old, young = migration_body("old", vm="vm-0", created=0), migration_body("young", vm="vm-0", created=9)
    state, woken = opened([young, old])
    refused = state.scheduler.judge(state.migrations.active["vms/young"])
    assert isinstance(refused, Refusal)
    assert refused.reason.value == "DiskBusy"
    assert "vms/old" in refused.message
    woken.migrations.clear()
    state.forget_migration("vms/old", old["metadata"]["uid"])
    assert woken.migrations == {"vms/old", "vms/young"}
    placed(state, "vms/young")


def test_a_byte_count_that_changes_wakes_nobody_who_only_waits_for_his_turn() -> None:
    state, woken = opened([migration_body(f"m{n}", vm=f"vm-{n}") for n in range(4)], limit=1)
    for n in range(4):
        placed(state, f"vms/m{n}")
    woken.migrations.clear()
    state.observe_host(host_body("n1", [machine(name, disks=[disk(allocated=77)]) for name in MACHINES]))
    assert woken.migrations == set()


def test_a_vm_that_stops_wakes_its_own_migration_only() -> None:
    state, woken = opened([migration_body(f"m{n}", vm=f"vm-{n}") for n in range(4)], limit=1)
    for n in range(4):
        placed(state, f"vms/m{n}")
    woken.migrations.clear()
    state.observe_host(
        host_body("n1", [machine(name, state="ShutOff" if name == "vm-2" else "Running") for name in MACHINES])
    )
    assert woken.migrations == {"vms/m2"}


def test_a_list_made_before_a_change_does_not_undo_it() -> None:
    state, _ = opened([])
    old, new = domain_body("a", limit=1), domain_body("a", limit=9)
    state.observe_domain(new)
    state.observe_domain(old)
    record = state.inventory.domain("a")
    assert record is not None
    assert record.domain is not None
    assert record.domain.spec.max_concurrent_migrations == 9
    with_it, without_it = host_body("n1", [machine("late")]), host_body("n1", [])
    state.observe_host(without_it)
    state.observe_host(with_it)
    assert state.inventory.machines_named("late") == []


def test_a_list_made_before_a_deletion_does_not_undo_it() -> None:
    state, _ = opened([])
    domain, host = domain_body("c"), host_body("n2", [machine("late")])
    state.observe_domain(domain)
    state.observe_host(host)
    state.forget_domain("c")
    state.forget_host("n2")
    state.observe_domain(domain)
    state.observe_host(host)
    assert state.inventory.domain("c") is None
    assert state.inventory.machines_named("late") == []


def test_what_others_have_yet_to_write_is_not_free() -> None:
    state, _ = opened([])
    state.observe_host(
        host_body(
            "n1",
            [machine(name, disks=[disk(allocated=600)]) for name in MACHINES],
            [
                {"name": "a", "ready": True, "availableBytes": 0},
                {"name": "b", "ready": True, "availableBytes": 1000},
            ],
        )
    )
    first, second = migration_body("m0", vm="vm-0"), migration_body("m1", vm="vm-1")
    state.observe_migration(first)
    state.observe_migration(second)
    assert state.scheduler.ask_for_place(state.migrations.active["vms/m0"], placed(state, "vms/m0"))
    refused = state.scheduler.judge(state.migrations.active["vms/m1"])
    assert isinstance(refused, Refusal)
    assert refused.reason.value == "DestinationFull"
    state.observe_migration(delegated(first, phase="Replicating", allocated=300))
    placed(state, "vms/m1")


class Histories(RuleBasedStateMachine):
    """An API server, late events and a restarting operator, against the limit of each domain."""

    @initialize()
    def begin(self) -> None:
        self.server: dict[str, dict[str, Any]] = {}
        self.seen_late: list[dict[str, Any]] = []
        self.unanswered: set[str] = set()
        self.made = 0
        machines = [machine(vm, owner=owner) for vm, owner in OWNERS.items()]
        self.state, _ = opened([], machines=machines, namespaces=("*",))

    @rule(vm=st.sampled_from(MACHINES))
    def create(self, vm: str) -> None:
        self.made += 1
        namespace = OWNERS[vm]
        body = migration_body(f"m{self.made}", namespace=namespace, vm=vm, created=self.made)
        self._store(body)
        self.state.observe_migration(body)

    @precondition(lambda self: self.server)
    @rule(data=st.data())
    def reconcile(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.server)))
        if key in self.unanswered:
            # The answer to its hand-over was lost: it is read before anything is decided.
            self.unanswered.discard(key)
            self.state.observe_migration(self.server[key])
        migration = self.state.migrations.active.get(key)
        if migration is None or migration.is_delegated:
            return
        outcome = self.state.scheduler.judge(migration)
        if not isinstance(outcome, Placement):
            if migration.was_accepted or outcome.sides is not None:
                self.state.scheduler.set_aside(migration, outcome)
            else:
                self.state.scheduler.withdraw(migration)
        elif self.state.scheduler.ask_for_place(migration, outcome):
            self.unanswered.add(key)
            if self._write(delegated(self.server[key]), data):
                self.unanswered.discard(key)
        elif not migration.was_accepted:
            self._write(accepted(self.server[key]), data)

    @rule(away=st.sets(st.sampled_from(MACHINES)), is_live=st.booleans(), answers=st.booleans())
    def the_node_changes(self, away: set[str], is_live: bool, answers: bool) -> None:
        self.state.set_liveness(Liveness(frozenset({"n1"} if is_live else ())))
        machines = [machine(name) for name in MACHINES if name not in away]
        self.state.observe_host(host_body("n1", machines, complaint="" if answers else "no answer"))

    @precondition(lambda self: self.seen_late)
    @rule(data=st.data())
    def a_late_event_arrives(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from(self.seen_late))
        if body in self.server.values() or data.draw(st.booleans()):
            self.state.observe_migration(body)

    @precondition(lambda self: self.server)
    @rule(data=st.data(), is_deletion=st.booleans())
    def end(self, data: st.DataObject, is_deletion: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.server)))
        body = self.server.pop(key)
        self.unanswered.discard(key)
        if is_deletion:
            self.state.forget_migration(key, body["metadata"]["uid"])
        else:
            self.state.observe_migration(delegated(body, phase="Failed"))

    @rule()
    def restart(self) -> None:
        self.seen_late.clear()
        self.unanswered.clear()
        self.state, _ = opened(list(self.server.values()))

    def _write(self, body: dict[str, Any], data: st.DataObject) -> bool:
        """Whether the answer arrived."""
        self._store(body)
        if data.draw(st.booleans(), label="the answer arrives"):
            self.state.observe_migration(body)
            return True
        self.seen_late.append(body)
        return False

    def _store(self, body: dict[str, Any]) -> None:
        self.server[f"{body['metadata']['namespace']}/{body['metadata']['name']}"] = body

    @invariant()
    def no_domain_has_more_than_its_limit(self) -> None:
        active = [body for body in self.server.values() if body["status"].get("nodeName")]
        assert len(active) <= LIMIT
        for name in "ab":
            assert len(active) <= self.state.scheduler.active_on(name) <= LIMIT

    @invariant()
    def no_disk_is_moved_twice(self) -> None:
        moving = [b["spec"]["virtualMachine"]["name"] for b in self.server.values() if b["status"].get("nodeName")]
        assert len(moving) == len(set(moving))


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
