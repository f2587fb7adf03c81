from hypothesis import given
from hypothesis import strategies as st

from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.controller import domain_statuses, topics
from diskmigration.controller.inventory import Inventory
from diskmigration.controller.liveness import Liveness
from diskmigration.controller.records import read_domain
from diskmigration.controller.waiters import Waiters
from tests.unit.controller.builders import EPOCH, domain_body, host_body, inventory, machine, report

machines = st.lists(
    st.tuples(st.sampled_from(("v1", "v2", "v3")), st.sampled_from(("u1", "u2", "u3"))),
    unique_by=(lambda pair: pair[0], lambda pair: pair[1]),
)


@given(st.lists(st.tuples(st.sampled_from(("n1", "n2")), st.one_of(st.none(), machines)), max_size=12))
def test_the_indexes_are_those_of_the_last_reports(history: list[tuple[str, list[tuple[str, str]] | None]]) -> None:
    made = Inventory()
    last: dict[str, list[tuple[str, str]]] = {}
    for node, found in history:
        if found is None:
            made.remove_host(node)
            last.pop(node, None)
        else:
            body = host_body(node, [machine(name, uuid=uuid) for name, uuid in found])
            made.put_host(LibvirtHost.from_wire(body))
            last[node] = found
    for name in ("v1", "v2", "v3"):
        expected = sorted(node for node, found in last.items() if name in [pair[0] for pair in found])
        assert [one.node for one in made.machines_named(name)] == expected
    for uuid in ("u1", "u2", "u3"):
        expected = sorted(node for node, found in last.items() if uuid in [pair[1] for pair in found])
        assert [one.node for one in made.machines_with_uuid(uuid.upper())] == expected


def test_a_change_touches_what_it_concerns_and_no_more() -> None:
    made = inventory([host_body("n1", [machine("v1"), machine("v2")])], [domain_body("a")])
    same = LibvirtHost.from_wire(host_body("n1", [machine("v1"), machine("v2")]))
    assert made.put_host(same) == set()
    paused = LibvirtHost.from_wire(host_body("n1", [machine("v1", state="Paused"), machine("v2")]))
    assert made.put_host(paused) == {topics.machine_name("v1"), topics.machine_uuid("uuid-v1")}
    full = LibvirtHost.from_wire(
        host_body("n1", [machine("v1", state="Paused"), machine("v2")], [report("a", available=0), report("b")])
    )
    assert made.put_host(full) == {topics.space("a", "n1")}
    assert made.put_domain(read_domain(domain_body("a"))) == set()
    assert made.put_domain(read_domain(domain_body("a", limit=9))) == {topics.domain("a")}
    assert made.set_liveness(Liveness()) >= {topics.machine_name("v2"), topics.domain("a")}
    assert made.set_liveness(Liveness()) == set()


def test_a_domain_is_ready_where_a_live_node_says_so() -> None:
    made = inventory(
        [
            host_body("n1", [], [report("a")]),
            host_body("n2", [], [report("a", ready=False, reason="no mount")]),
            host_body("n3", [], [report("a")]),
        ],
        [domain_body("a")],
        live={"n1", "n2"},
    )
    record = made.domain("a")
    assert record is not None
    status = domain_statuses.status_of(record, made.reports("a"), EPOCH)
    assert (status.ready_nodes, status.conditions[0].status.value) == (1, "True")
    assert status.conditions[0].message == "Ready on 1 of 2 nodes. Not ready on n2: no mount."


def test_a_domain_that_no_node_reports_or_nobody_can_read_is_not_ready() -> None:
    record = read_domain(domain_body("a"))
    status = domain_statuses.status_of(record, {}, EPOCH)
    assert (status.ready_nodes, status.conditions[0].reason) == (0, "NoNode")
    body = domain_body("b", kind="loop")
    body["spec"]["thinProvisioning"] = {"chunkSize": "-1"}
    unreadable = domain_statuses.status_of(read_domain(body), {}, EPOCH)
    assert (unreadable.conditions[0].status.value, unreadable.conditions[0].reason) == ("False", "InvalidSpec")


sets = st.frozensets(st.sampled_from(("t1", "t2", "t3")))


@given(st.lists(st.tuples(st.sampled_from(("k1", "k2")), sets), max_size=10))
def test_who_waits_is_who_said_so_last(history: list[tuple[str, frozenset[str]]]) -> None:
    waiters = Waiters()
    last: dict[str, frozenset[str]] = {}
    for key, waited in history:
        waiters.wait(key, waited)
        last[key] = waited
    for topic in ("t1", "t2", "t3"):
        assert waiters.concerned([topic]) == {key for key, waited in last.items() if topic in waited}


def seen(node: str, domain: str, group: str, lock_type: str = "none") -> LibvirtHost:
    return LibvirtHost.from_wire(host_body(node, [], [report(domain, group=group, lock_type=lock_type)]))


def test_a_volume_group_of_one_node_is_shared_by_nobody() -> None:
    made = Inventory()
    made.put_host(seen("n1", "a", "g1"))
    made.put_host(seen("n2", "a", "g2"))
    assert made.unlocked_sharers("g1") == []
    assert made.unlocked_sharers("g2") == [], "each node has a group of that name of its own"
    assert made.unlocked_sharers("g3") == []


def test_nodes_that_share_a_group_need_a_lock_manager_on_each() -> None:
    made = Inventory()
    made.put_host(seen("n1", "a", "g1", "sanlock"))
    made.put_host(seen("n2", "b", "g1", "sanlock"))
    assert made.unlocked_sharers("g1") == []
    made.put_host(seen("n2", "b", "g1"))
    assert made.unlocked_sharers("g1") == ["n1", "n2"], "also as domains of different names"
    made.remove_host("n1")
    assert made.unlocked_sharers("g1") == []


def test_a_group_that_is_seen_anew_touches_every_domain_on_it() -> None:
    made = Inventory()
    made.put_host(seen("n1", "a", "g1"))
    assert made.put_host(seen("n2", "b", "g1")) == {
        topics.domain("a"),
        topics.domain("b"),
        topics.space("b", "n2"),
    }
    assert made.put_host(seen("n2", "b", "g1")) == set()
    assert made.put_host(seen("n2", "b", "g2")) == {topics.domain("a"), topics.domain("b")}
    made.put_host(seen("n2", "b", "g1"))
    assert topics.domain("a") in made.remove_host("n2")


def test_a_node_is_touched_when_its_libvirtd_falls_silent_and_when_it_answers_again() -> None:
    made = Inventory()
    well = LibvirtHost.from_wire(host_body("n1", []))
    sick = LibvirtHost.from_wire(host_body("n1", [], complaint="no answer since noon"))
    made.put_host(well)
    assert made.complaint("n1") == ""
    assert made.put_host(sick) == {topics.node("n1")}
    assert made.complaint("n1") == "no answer since noon"
    assert made.put_host(sick) == set()
    assert made.put_host(well) == {topics.node("n1")}
    assert made.complaint("n2") == "", "a node that never reported complains of nothing"


def test_a_node_that_is_not_judged_yet_takes_nothing_from_a_storage_domain() -> None:
    made = Inventory()
    for node in ("live", "early", "away"):
        made.put_host(LibvirtHost.from_wire(host_body(node, [], [report("a")])))
    made.set_liveness(Liveness(frozenset({"live"}), frozenset({"early"})))
    assert set(made.reports("a")) == {"live", "early"}
    touched = made.set_liveness(Liveness(frozenset({"live"})))
    assert {topics.node("early"), topics.domain("a")} <= touched
    assert set(made.reports("a")) == {"live"}


def test_a_domain_whose_group_is_shared_unlocked_is_ready_nowhere() -> None:
    record = read_domain(domain_body("a", kind="lvm"))
    reports = {
        "n1": seen("n1", "a", "g1").status.storage_domains[0],
        "n2": seen("n2", "a", "g1").status.storage_domains[0],
    }
    shared = {"n1": ["n1", "n2"], "n2": ["n1", "n2"]}
    status = domain_statuses.status_of(record, reports, EPOCH, unlocked_sharers=shared)
    assert status.ready_nodes == 0
    (ready,) = status.conditions
    assert (ready.status, ready.reason) == ("False", "SharedVolumeGroupUnlocked")
    assert "n1, n2" in ready.message
    assert "lvmlockd" in ready.message


def test_a_domain_stays_ready_on_the_nodes_whose_groups_are_their_own() -> None:
    record = read_domain(domain_body("a", kind="lvm"))
    reports = {node: seen(node, "a", f"g-{node}").status.storage_domains[0] for node in ("n1", "n2", "n3")}
    status = domain_statuses.status_of(record, reports, EPOCH, unlocked_sharers={"n1": ["n1", "x"], "n2": [], "n3": []})
    assert status.ready_nodes == 2
    assert status.conditions[0].reason == "NodesReady"
    assert "lvmlockd" in status.conditions[0].message
