"""A StorageDomain's status: what its conditions say to people and to kstatus, and which of its sizes it shows."""

from typing import Any

import pytest

from diskmigration.api.libvirt_host import NodeStorageDomain
from diskmigration.api.storage_domain import StorageDomainStatus
from diskmigration.controller.records import read_domain
from diskmigration.controller.storage_domain_status import DomainUse, status_of
from tests.unit.controller.builders import EPOCH, GIB, domain_body, host_body, inventory, report


def reported(*reports: dict[str, Any]) -> dict[str, NodeStorageDomain]:
    return {f"n{number}": NodeStorageDomain.from_wire(each) for number, each in enumerate(reports, start=1)}


def states(status: StorageDomainStatus) -> dict[str, str]:
    return {each.type: each.status.value for each in status.conditions}


def unreadable() -> dict[str, Any]:
    body = domain_body("a", kind="loop", generation=3)
    body["spec"]["thinProvisioning"] = {"chunkSize": "-1"}
    return body


READY = {"Ready": "True", "Reconciling": "False", "Stalled": "False"}
WAITING = {"Ready": "False", "Reconciling": "True", "Stalled": "False"}
STALLED = {"Ready": "False", "Reconciling": "False", "Stalled": "True"}


@pytest.mark.parametrize(
    ("body", "use", "expected", "reason"),
    [
        (domain_body("a", generation=3), DomainUse(), WAITING, "NoNode"),
        (domain_body("a", generation=3), DomainUse(reported(report("a", ready=False))), WAITING, "NoNodeReady"),
        (domain_body("a", generation=3), DomainUse(reported(report("a"))), READY, "NodesReady"),
        (
            domain_body("a", generation=3),
            DomainUse(reported(report("a"), report("a", ready=False))),
            READY,
            "NodesReady",
        ),
        (
            domain_body("a", kind="lvm", generation=3),
            DomainUse(reported(report("a", group="g")), {"n1": ["n1", "n2"]}),
            WAITING,
            "SharedVolumeGroupUnlocked",
        ),
        (unreadable(), DomainUse(reported(report("a"))), STALLED, "InvalidSpec"),
    ],
    ids=["no node", "not ready", "ready", "ready on one of two", "shared", "unreadable"],
)
def test_the_conditions_are_those_of_kstatus(
    body: dict[str, Any], use: DomainUse, expected: dict[str, str], reason: str
) -> None:
    status = status_of(read_domain(body), use, EPOCH)
    assert states(status) == expected
    assert {each.reason for each in status.conditions} == {reason}
    assert status.observed_generation == 3
    assert {each.observed_generation for each in status.conditions} == {3}


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
    status = status_of(record, DomainUse(made.reports("a")), EPOCH)
    assert status.ready_nodes == 1
    assert status.conditions[0].message == "Ready on 1 of 2 nodes. Not ready on n2: no mount."


def test_a_domain_whose_group_is_shared_unlocked_is_ready_nowhere() -> None:
    record = read_domain(domain_body("a", kind="lvm"))
    use = DomainUse(reported(report("a", group="g"), report("a", group="g")), {"n1": ["n1", "n2"], "n2": ["n1", "n2"]})
    status = status_of(record, use, EPOCH)
    assert (status.ready_nodes, status.available_bytes) == (0, None)
    ready = status.conditions[0]
    assert (ready.status, ready.reason) == ("False", "SharedVolumeGroupUnlocked")
    assert "n1, n2" in ready.message
    assert "lvmlockd" in ready.message


def test_a_domain_stays_ready_on_the_nodes_whose_groups_are_their_own() -> None:
    record = read_domain(domain_body("a", kind="lvm"))
    reports = reported(*(report("a", group=f"g{number}") for number in range(3)))
    status = status_of(record, DomainUse(reports, {"n1": ["n1", "x"], "n2": [], "n3": []}), EPOCH)
    assert status.ready_nodes == 2
    assert status.conditions[0].reason == "NodesReady"
    assert "lvmlockd" in status.conditions[0].message


def test_the_sizes_are_those_of_the_ready_node_with_the_least_room() -> None:
    record = read_domain(domain_body("a", limit=4))
    reports = reported(
        report("a", available=30 * GIB),
        {**report("a", available=20 * GIB), "capacityBytes": 100 * GIB},
        report("a", ready=False, available=GIB),
        {"name": "a", "ready": True},
    )
    status = status_of(record, DomainUse(reports, active_migrations=3), EPOCH)
    assert (status.available_bytes, status.capacity_bytes, status.active_migrations) == (20 * GIB, 100 * GIB, 3)
    assert status.to_wire()["display"] == {"available": "20.0Gi", "capacity": "100.0Gi", "active": "3/4"}


def test_there_are_no_sizes_while_no_node_is_ready() -> None:
    status = status_of(read_domain(domain_body("a")), DomainUse(), EPOCH)
    wire = status.to_wire()
    assert {"capacityBytes", "availableBytes"} & wire.keys() == set()
    assert wire["display"] == {"active": "0/4"}
    unread = status_of(read_domain(unreadable()), DomainUse(active_migrations=2), EPOCH)
    assert unread.to_wire()["display"] == {"active": "2"}
