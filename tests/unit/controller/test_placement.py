from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskmigration.api.disk_migration import DiskMigrationSpec
from diskmigration.api.errors import Reason
from diskmigration.controller.placement import Surroundings, place
from diskmigration.controller.placement_outcome import Outcome, Placement, Refusal
from tests.unit.controller.builders import (
    GIB,
    disk,
    domain_body,
    host_body,
    inventory,
    machine,
    migration,
    report,
)

DOMAINS = [domain_body("a"), domain_body("b", kind="loop")]


def judged(
    hosts: list[dict[str, Any]],
    *,
    domains: list[dict[str, Any]] | None = None,
    live: set[str] | None = None,
    unjudged: set[str] | None = None,
    blocked_by: str | None = None,
    reserved: int = 0,
    namespace: str = "vms",
    **said: Any,
) -> Outcome:
    spec = migration(namespace=namespace, **said).spec
    assert isinstance(spec, DiskMigrationSpec)
    around = Surroundings(
        inventory=inventory(hosts, DOMAINS if domains is None else domains, live=live, unjudged=unjudged),
        system_namespace="diskmigration-system",
        blocked_by=lambda _keys: blocked_by,
        reserved_bytes=lambda _domain, _node: reserved,
    )
    return place(namespace, spec, around)


WEB = machine("web-1")


def test_a_migration_goes_to_the_node_of_its_vm() -> None:
    outcome = judged([host_body("n1", [machine("other")]), host_body("n2", [WEB])])
    assert isinstance(outcome, Placement)
    assert (outcome.node, outcome.source.storage_domain_name, outcome.destination.storage_domain_name) == (
        "n2",
        "a",
        "b",
    )
    assert outcome.needed_bytes == GIB


@pytest.mark.parametrize(
    ("reason", "surroundings"),
    [
        (Reason.VIRTUAL_MACHINE_NOT_FOUND, {"hosts": []}),
        (Reason.VIRTUAL_MACHINE_NOT_FOUND, {"hosts": [host_body("n1", [machine("web-10")])]}),
        (Reason.VIRTUAL_MACHINE_NOT_FOUND, {"hosts": [host_body("n1", [WEB])], "live": set()}),
        (
            Reason.VIRTUAL_MACHINE_NOT_FOUND,
            {
                "hosts": [host_body("n1", [WEB])],
                "spec": {"virtualMachine": {"name": "web-1", "uuid": "another"}},
            },
        ),
        (
            Reason.VIRTUAL_MACHINE_AMBIGUOUS,
            {"hosts": [host_body(n, [machine("web-1", uuid=n)]) for n in ("n1", "n2")]},
        ),
        (
            Reason.VIRTUAL_MACHINE_AMBIGUOUS,
            {"hosts": [host_body(n, [WEB]) for n in ("n1", "n2")]},
        ),
        (
            Reason.VIRTUAL_MACHINE_AMBIGUOUS,
            {"hosts": [host_body(n, [machine("web-1", state="ShutOff")]) for n in ("n1", "n2")]},
        ),
        (
            Reason.VIRTUAL_MACHINE_AMBIGUOUS,
            {
                "hosts": [
                    host_body("n1", [machine("web-1", state="ShutOff")]),
                    host_body("n2", [WEB]),
                ],
                "spec": {"virtualMachine": {"name": "web-1", "nodeName": "n1"}},
            },
        ),
        (
            Reason.DISK_NOT_FOUND,
            {"hosts": [host_body("n1", [machine("web-1", disks=[disk("vdb")])])]},
        ),
        (
            Reason.DISK_NOT_SUPPORTED,
            {"hosts": [host_body("n1", [machine("web-1", disks=[disk(kind="Network", domain="")], owner="vms")])]},
        ),
        (
            Reason.SOURCE_NOT_IN_STORAGE_DOMAIN,
            {"hosts": [host_body("n1", [machine("web-1", disks=[disk(domain="")], owner="vms")])]},
        ),
        (Reason.STORAGE_DOMAIN_NOT_FOUND, {"hosts": [host_body("n1", [WEB])], "to": "nowhere"}),
        (
            Reason.STORAGE_DOMAIN_NOT_READY,
            {"hosts": [host_body("n1", [WEB], [report("a"), report("b", ready=False, reason="no mount")])]},
        ),
        (
            Reason.STORAGE_DOMAIN_NOT_READY,
            {"hosts": [host_body("n1", [WEB], [report("a")])]},
        ),
        (
            Reason.STORAGE_DOMAIN_NOT_READY,
            {"hosts": [host_body("n1", [WEB], [report("b"), report("a", ready=False)])]},
        ),
        (
            Reason.NAMESPACE_NOT_ALLOWED,
            {
                "hosts": [host_body("n1", [WEB])],
                "domains": [domain_body("a"), domain_body("b", namespaces=("others",))],
            },
        ),
        (
            Reason.NAMESPACE_NOT_ALLOWED,
            {
                "hosts": [host_body("n1", [machine("web-1", owner="vms")])],
                "domains": [domain_body("a", namespaces=()), domain_body("b")],
            },
        ),
        (
            Reason.SHARED_VOLUME_GROUP_UNLOCKED,
            {
                "hosts": [
                    host_body("n1", [WEB], [report("a"), report("b", group="g1")]),
                    host_body("n2", [], [report("b", group="g1")]),
                ],
                "domains": [domain_body("a"), domain_body("b", kind="lvm")],
            },
        ),
        (
            Reason.SHARED_VOLUME_GROUP_UNLOCKED,
            {
                "hosts": [
                    host_body("n1", [WEB], [report("a", group="g1"), report("b")]),
                    host_body("n2", [], [report("a", group="g1", lock_type="sanlock")]),
                ],
                "domains": [domain_body("a", kind="lvm"), domain_body("b")],
            },
        ),
        (
            Reason.DESTINATION_FULL,
            {"hosts": [host_body("n1", [WEB], [report("a"), report("b", available=GIB - 1)])]},
        ),
        (
            Reason.DESTINATION_FULL,
            {"hosts": [host_body("n1", [WEB], [report("a"), report("b", available=GIB)])], "reserved": 1},
        ),
        (
            Reason.HYPERVISOR_UNAVAILABLE,
            {"hosts": [host_body("n1", [WEB], complaint="libvirtd does not answer.")]},
        ),
        (Reason.DISK_BUSY, {"hosts": [host_body("n1", [WEB])], "blocked_by": "vms/first"}),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason_and_not_for_good(
    reason: Reason, surroundings: dict[str, Any]
) -> None:
    outcome = judged(**surroundings)
    assert isinstance(outcome, Refusal)
    assert outcome.reason is reason
    assert not outcome.is_permanent, "what nodes and administrators say may change"
    assert (outcome.sides is not None) == (reason is Reason.DISK_BUSY)
    assert len(outcome.message) > 30


@pytest.mark.parametrize(
    ("image_format", "allocated", "destination", "goes"),
    [
        ("raw", 10 * GIB, {}, True),
        ("raw", 9 * GIB, {}, False),
        ("qcow2", 10 * GIB, {}, False),
        ("raw", 10 * GIB, {"provisioning": "Thick"}, False),
        ("raw", 10 * GIB, {"format": "raw"}, False),
    ],
)
def test_a_raw_file_that_was_allocated_ahead_is_left_to_its_agent_to_measure(
    image_format: str, allocated: int, destination: dict[str, str], goes: bool
) -> None:
    raw = {**disk(), "format": image_format, "sizeBytes": 10 * GIB, "allocatedBytes": allocated}
    found = host_body("n1", [machine("web-1", disks=[raw])], [report("a"), report("b", available=GIB)])
    outcome = judged([found], spec={"destination": {"storageDomainName": "b", **destination}})
    assert isinstance(outcome, Placement) == goes
    if isinstance(outcome, Placement):
        assert outcome.needed_bytes == allocated, "so much is reserved all the same"


def test_messages_name_the_objects() -> None:
    ambiguous = judged([host_body(n, [machine("web-1", uuid=n)]) for n in ("n1", "n2")])
    busy = judged([host_body("n1", [WEB])], blocked_by="vms/first")
    full = judged([host_body("n1", [WEB], [report("a"), report("b", available=17)])])
    assert isinstance(ambiguous, Refusal)
    assert isinstance(busy, Refusal)
    assert isinstance(full, Refusal)
    assert all(word in ambiguous.message for word in ("web-1", "n1", "n2", "nodeName"))
    assert all(word in busy.message for word in ("vda", "web-1", "vms/first"))
    assert all(word in full.message for word in ("StorageDomain b", "n1", "17 free", "1.0Gi"))


def test_a_node_name_or_a_uuid_settles_which_vm_is_meant() -> None:
    both = [host_body(n, [machine("web-1", uuid=f"uuid-{n}")]) for n in ("n1", "n2")]
    by_node = judged(both, spec={"virtualMachine": {"name": "web-1", "nodeName": "n2"}})
    by_uuid = judged(both, spec={"virtualMachine": {"uuid": "UUID-n1"}})
    assert isinstance(by_node, Placement)
    assert isinstance(by_uuid, Placement)
    assert (by_node.node, by_uuid.node) == ("n2", "n1")


def test_one_vm_defined_on_two_nodes_is_where_it_runs() -> None:
    outcome = judged([host_body("n1", [machine("web-1", state="ShutOff")]), host_body("n2", [WEB])])
    assert isinstance(outcome, Placement)
    assert outcome.node == "n2"


STOPPED = machine("web-1", state="ShutOff")


@pytest.mark.parametrize(
    ("on_dead", "on_live", "node"),
    [
        (WEB, WEB, "live"),
        (STOPPED, WEB, "live"),
        (STOPPED, STOPPED, "live"),
        (WEB, STOPPED, None),
    ],
)
def test_a_node_that_went_away_makes_no_vm_ambiguous(
    on_dead: dict[str, Any], on_live: dict[str, Any], node: str | None
) -> None:
    both = [host_body("dead", [on_dead]), host_body("live", [on_live])]
    for virtual_machine in ({"name": "web-1"}, {"uuid": "uuid-web-1"}):
        outcome = judged(both, live={"live"}, spec={"virtualMachine": virtual_machine})
        if node is None:
            assert isinstance(outcome, Refusal), "its disk may be in use there"
            assert "node dead, whose agent does not renew its Lease" in outcome.message
        else:
            assert isinstance(outcome, Placement)
            assert outcome.node == node
        assert {"node/dead", "node/live"} <= outcome.depends_on


@pytest.mark.parametrize(("on_well", "node"), [(WEB, "well"), (STOPPED, None)])
def test_nor_does_a_node_whose_libvirtd_does_not_answer(on_well: dict[str, Any], node: str | None) -> None:
    outcome = judged([host_body("sick", [WEB], complaint="no answer"), host_body("well", [on_well])])
    assert (outcome.node if isinstance(outcome, Placement) else None) == node
    assert {"node/sick", "node/well"} <= outcome.depends_on


@pytest.mark.parametrize("other", [None, WEB, STOPPED])
def test_nothing_is_decided_of_a_vm_while_it_is_too_early_to_tell_whether_its_node_is_there(
    other: dict[str, Any] | None,
) -> None:
    bodies = [host_body("n1", [WEB])] + ([host_body("n2", [other])] if other else [])
    outcome = judged(bodies, live={"n2"}, unjudged={"n1"})
    assert isinstance(outcome, Refusal)
    assert outcome.is_provisional
    assert "node/n1" in outcome.depends_on


def test_another_vm_of_that_name_on_a_node_that_went_away_still_has_to_be_told_apart() -> None:
    both = [host_body(node, [machine("web-1", uuid=node)]) for node in ("dead", "live")]
    outcome = judged(both, live={"live"})
    assert isinstance(outcome, Refusal)
    assert outcome.reason is Reason.VIRTUAL_MACHINE_AMBIGUOUS
    assert isinstance(judged(both, live={"live"}, spec={"virtualMachine": {"uuid": "live"}}), Placement)


@pytest.mark.parametrize("state", ["Running", "ShutOff"])
def test_whether_a_disk_is_at_its_destination_its_agent_knows_best(state: str) -> None:
    outcome = judged([host_body("n1", [machine("web-1", state=state, disks=[disk(domain="b")])])])
    assert isinstance(outcome, Placement)
    assert (outcome.node, outcome.needed_bytes) == ("n1", 0)


def test_the_operators_own_namespace_is_always_allowed() -> None:
    closed = [domain_body("a", namespaces=()), domain_body("b", namespaces=())]
    outcome = judged([host_body("n1", [WEB])], domains=closed, namespace="diskmigration-system")
    assert isinstance(outcome, Placement)


@pytest.mark.parametrize(
    ("destination", "kind", "needed"),
    [
        ({}, "loop", GIB),
        ({"provisioning": "Thick"}, "file", 10 * GIB),
        ({"format": "raw"}, "loop", 10 * GIB),
        ({"format": "raw"}, "file", GIB),
    ],
)
def test_what_is_pre_allocated_needs_its_whole_size(destination: dict[str, str], kind: str, needed: int) -> None:
    spec = {"destination": {"storageDomainName": "b", **destination}, "backingChain": "Flatten"}
    outcome = judged([host_body("n1", [WEB])], domains=[domain_body("a"), domain_body("b", kind=kind)], spec=spec)
    assert isinstance(outcome, Placement)
    assert outcome.needed_bytes == needed


@given(available=st.integers(0, 4 * GIB), reserved=st.integers(0, 4 * GIB), allocated=st.integers(0, 4 * GIB))
def test_a_place_is_given_exactly_when_it_fits(available: int, reserved: int, allocated: int) -> None:
    machines = [machine("web-1", disks=[disk(allocated=allocated)])]
    outcome = judged([host_body("n1", machines, [report("a"), report("b", available=available)])], reserved=reserved)
    assert isinstance(outcome, Placement) == (allocated <= available - reserved)


STATES = ("Running", "Paused", "ShutOff", "Crashed", "Suspended", "Unknown")


@given(st.data())
def test_whatever_the_cluster_looks_like_there_is_one_outcome_and_it_waits_for_something(data: st.DataObject) -> None:
    hosts = [
        host_body(
            node,
            [
                machine(
                    name,
                    uuid=data.draw(st.sampled_from((f"uuid-{name}", f"uuid-{name}-{node}"))),
                    state=data.draw(st.sampled_from(STATES)),
                    disks=[
                        disk(
                            target,
                            domain=data.draw(st.sampled_from(("", "a", "b", "c"))),
                            kind=data.draw(st.sampled_from(("File", "Block", "Network"))),
                        )
                        for target in data.draw(st.sets(st.sampled_from(("vda", "vdb"))))
                    ],
                )
                for name in data.draw(st.sets(st.sampled_from(("web-1", "web-2"))))
            ],
            [report(name, ready=data.draw(st.booleans())) for name in data.draw(st.sets(st.sampled_from("ab")))],
        )
        for node in ("n1", "n2")
    ]
    live = data.draw(st.sets(st.sampled_from(("n1", "n2"))))
    outcome = judged(hosts, live=live, to=data.draw(st.sampled_from("abc")))
    assert outcome.depends_on
    if isinstance(outcome, Placement):
        assert outcome.node in live
        assert len(outcome.disk_keys) == 2


@pytest.mark.parametrize("owner", ["", "vms", "others"])
@pytest.mark.parametrize("namespace", ["vms", "others", "strangers"])
@pytest.mark.parametrize("allowed", [("vms",), ("vms", "others"), ("*",), ()])
@pytest.mark.parametrize("target", ["vda", "vdb"])
def test_who_may_move_whose_vm(owner: str, namespace: str, allowed: tuple[str, ...], target: str) -> None:
    domains = [domain_body(name, namespaces=allowed) for name in "ab"]
    owned = machine("web-1", owner=owner)
    outcome = judged([host_body("n1", [owned])], domains=domains, namespace=namespace, to="b", spec={"disk": target})
    may_use = namespace in allowed or "*" in allowed
    may_move = may_use and (owner == namespace or (not owner and allowed == (namespace,)))
    if may_move:
        assert isinstance(outcome, Placement) == (target == "vda")
        return
    assert isinstance(outcome, Refusal)
    if not may_use:
        # Of the destination, before anything is looked for.
        assert outcome.reason is Reason.NAMESPACE_NOT_ALLOWED
    elif owner:
        nothing = judged([], domains=domains, namespace=namespace, to="b", spec={"disk": target})
        assert isinstance(nothing, Refusal)
        assert (outcome.reason, outcome.message) == (nothing.reason, nothing.message)
    else:
        assert outcome.reason is Reason.NAMESPACE_NOT_ALLOWED
        assert f"<owner namespace='{namespace}'/>" in outcome.message
        assert "n1" not in outcome.message


@pytest.mark.parametrize("wanted", [{"name": "web-1"}, {"uuid": "uuid-web-1"}, {"name": "web-1", "nodeName": "n2"}])
def test_a_vm_of_others_is_not_told_from_none(wanted: dict[str, str]) -> None:
    """Whatever it does and wherever it is, and if it has a name that another VM has too."""
    domains = [domain_body(name, namespaces=("*",)) for name in "ab"]
    spec = {"virtualMachine": wanted}
    none = judged([host_body("n1", []), host_body("n2", [])], domains=domains, spec=spec)
    for state in ("Running", "ShutOff"):
        for nodes in (("n1",), ("n2",), ("n1", "n2")):
            there = [machine("web-1", state=state, owner="others")]
            bodies = [host_body(node, there if node in nodes else []) for node in ("n1", "n2")]
            found = judged(bodies, domains=domains, spec=spec)
            assert isinstance(found, Refusal)
            assert isinstance(none, Refusal)
            assert (found.reason, found.message) == (none.reason, none.message)
    mine = machine("web-1", uuid="mine", owner="vms")
    if "uuid" not in wanted and "nodeName" not in wanted:
        both = [host_body("n1", [mine]), host_body("n2", [machine("web-1", owner="others")])]
        assert isinstance(judged(both, domains=domains, spec=spec), Placement)


def test_who_moves_a_disk_already_is_not_named_to_another_namespace() -> None:
    for holder, told in (("vms/first", "DiskMigration vms/first"), ("others/first", "of another namespace")):
        outcome = judged([host_body("n1", [WEB])], blocked_by=holder)
        assert isinstance(outcome, Refusal)
        assert told in outcome.message
        assert "others" not in outcome.message


@pytest.mark.parametrize(
    ("at", "expected", "moves_nothing"), [("a", "a", False), ("a", "c", True), ("b", "a", True), ("b", "b", True)]
)
def test_a_disk_that_is_not_on_the_source_that_is_named_is_not_moved(
    at: str, expected: str, *, moves_nothing: bool
) -> None:
    found = host_body("n1", [machine("web-1", disks=[disk(domain=at)])], [report("a"), report("b", available=GIB)])
    outcome = judged([found], spec={"source": {"storageDomainName": expected}})
    assert isinstance(outcome, Placement)
    assert outcome.moves_nothing is moves_nothing
    assert outcome.source.storage_domain_name == at


def test_where_nothing_is_moved_no_room_is_needed() -> None:
    full = host_body("n1", [WEB], [report("a"), report("b", ready=False, available=0)])
    assert isinstance(judged([full]), Refusal)
    assert isinstance(judged([full], spec={"source": {"storageDomainName": "c"}}), Placement)
