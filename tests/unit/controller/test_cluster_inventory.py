from hypothesis import given
from hypothesis import strategies as st

from diskmigration.api.libvirt_host import LibvirtHost
from diskmigration.controller import dependencies
from diskmigration.controller.cluster_inventory import ClusterInventory
from diskmigration.controller.dependencies import DependencyIndex
from diskmigration.controller.liveness import Liveness
from diskmigration.controller.records import read_domain
from tests.unit.controller.builders import domain_body, host_body, inventory, machine, report

machines = st.lists(
    st.tuples(st.sampled_from(("v1", "v2", "v3")), st.sampled_from(("u1", "u2", "u3"))),
    unique_by=(lambda pair: pair[0], lambda pair: pair[1]),
)


@given(st.lists(st.tuples(st.sampled_from(("n1", "n2")), st.one_of(st.none(), machines)), max_size=12))
def test_the_indexes_are_those_of_the_last_reports(history: list[tuple[str, list[tuple[str, str]] | None]]) -> None:
    made = ClusterInventory()
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
    assert made.put_host(paused) == {dependencies.machine_name("v1"), dependencies.machine_uuid("uuid-v1")}
    full = LibvirtHost.from_wire(
        host_body("n1", [machine("v1", state="Paused"), machine("v2")], [report("a", available=0), report("b")])
    )
    assert made.put_host(full) == {dependencies.space("a", "n1")}
    assert made.put_domain(read_domain(domain_body("a"))) == set()
    assert made.put_domain(read_domain(domain_body("a", limit=9))) == {dependencies.domain("a")}
    # The status has to observe a new generation also where the spec reads the same.
    assert made.put_domain(read_domain(domain_body("a", limit=9, generation=2))) == {dependencies.domain("a")}
    assert made.set_liveness(Liveness()) >= {dependencies.machine_name("v2"), dependencies.domain("a")}
    assert made.set_liveness(Liveness()) == set()


sets = st.frozensets(st.sampled_from(("t1", "t2", "t3")))


@given(st.lists(st.tuples(st.sampled_from(("k1", "k2")), sets), max_size=10))
def test_who_waits_is_who_said_so_last(history: list[tuple[str, frozenset[str]]]) -> None:
    index = DependencyIndex()
    last: dict[str, frozenset[str]] = {}
    for key, waited in history:
        index.wait(key, waited)
        last[key] = waited
    for dependency in ("t1", "t2", "t3"):
        assert index.concerned([dependency]) == {key for key, waited in last.items() if dependency in waited}


def seen(node: str, domain: str, group: str, lock_type: str = "none") -> LibvirtHost:
    return LibvirtHost.from_wire(host_body(node, [], [report(domain, group=group, lock_type=lock_type)]))


def test_a_volume_group_of_one_node_is_shared_by_nobody() -> None:
    made = ClusterInventory()
    made.put_host(seen("n1", "a", "g1"))
    made.put_host(seen("n2", "a", "g2"))
    assert made.unlocked_sharers("g1") == []
    assert made.unlocked_sharers("g2") == [], "each node has a group of that name of its own"
    assert made.unlocked_sharers("g3") == []


def test_nodes_that_share_a_group_need_a_lock_manager_on_each() -> None:
    made = ClusterInventory()
    made.put_host(seen("n1", "a", "g1", "sanlock"))
    made.put_host(seen("n2", "b", "g1", "sanlock"))
    assert made.unlocked_sharers("g1") == []
    made.put_host(seen("n2", "b", "g1"))
    assert made.unlocked_sharers("g1") == ["n1", "n2"], "also as domains of different names"
    made.remove_host("n1")
    assert made.unlocked_sharers("g1") == []


def test_a_group_that_is_seen_anew_touches_every_domain_on_it() -> None:
    made = ClusterInventory()
    made.put_host(seen("n1", "a", "g1"))
    assert made.put_host(seen("n2", "b", "g1")) == {
        dependencies.domain("a"),
        dependencies.domain("b"),
        dependencies.space("b", "n2"),
    }
    assert made.put_host(seen("n2", "b", "g1")) == set()
    assert made.put_host(seen("n2", "b", "g2")) == {dependencies.domain("a"), dependencies.domain("b")}
    made.put_host(seen("n2", "b", "g1"))
    assert dependencies.domain("a") in made.remove_host("n2")


def test_a_node_is_touched_when_its_libvirtd_falls_silent_and_when_it_answers_again() -> None:
    made = ClusterInventory()
    well = LibvirtHost.from_wire(host_body("n1", []))
    sick = LibvirtHost.from_wire(host_body("n1", [], complaint="no answer since noon"))
    made.put_host(well)
    assert made.complaint("n1") == ""
    assert made.put_host(sick) == {dependencies.node("n1")}
    assert made.complaint("n1") == "no answer since noon"
    assert made.put_host(sick) == set()
    assert made.put_host(well) == {dependencies.node("n1")}
    assert made.complaint("n2") == "", "a node that never reported complains of nothing"


def test_a_node_that_is_not_judged_yet_takes_nothing_from_a_storage_domain() -> None:
    made = ClusterInventory()
    for node in ("live", "early", "away"):
        made.put_host(LibvirtHost.from_wire(host_body(node, [], [report("a")])))
    made.set_liveness(Liveness(frozenset({"live"}), frozenset({"early"})))
    assert set(made.reports("a")) == {"live", "early"}
    touched = made.set_liveness(Liveness(frozenset({"live"})))
    assert {dependencies.node("early"), dependencies.domain("a")} <= touched
    assert set(made.reports("a")) == {"live"}
