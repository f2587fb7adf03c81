"""Which VM is read when, what stays known of one that does not answer, and when all is current."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from diskmigration.agent.hypervisor.domain_xml import DomainDescription, DomainDisk, Layer
from diskmigration.agent.hypervisor.statistics import DomainStatistics, LayerStatistics
from diskmigration.agent.hypervisor.vm_reader import VmReading
from diskmigration.agent.node.instant import Instant
from diskmigration.agent.node.table import (
    DEBOUNCE_SECONDS,
    HELD_SECONDS,
    HUNG_SECONDS,
    OFF_IN_TURN,
    RESYNC_SECONDS,
    RETRY_SECONDS,
    RUNNING_IN_TURN,
    SILENT_SECONDS,
    VmTable,
)
from diskmigration.api.libvirt_host import VirtualMachineState

RUNNING, OFF = VirtualMachineState.RUNNING, VirtualMachineState.SHUT_OFF
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> Instant:
    return Instant(seconds, START + timedelta(seconds=seconds))


def reading(uuid: str, state: VirtualMachineState = RUNNING, *, path: str = "/a", name: str | None = None) -> VmReading:
    disk = DomainDisk("vda", "disk", "file", (Layer("file", path, "qcow2", 1),), chain_is_known=True)
    return VmReading(state, DomainDescription(name or f"name of {uuid}", uuid, (disk,)))


def row(uuid: str, *, allocated: int | None = 1, run: int = 1, path: str = "/a", index: int = 1) -> DomainStatistics:
    return DomainStatistics(uuid, run, (LayerStatistics("vda", index, path, allocated, 1, 1, 0),), state=(1, 1))


def table_of(*uuids: str, state: VirtualMachineState = RUNNING) -> VmTable:
    """All of them read at 0."""
    table = VmTable()
    table.listed({uuid: f"name of {uuid}" for uuid in uuids})
    assert set(table.take_due(at(0))) == set(uuids)
    for uuid in uuids:
        table.answered(uuid, reading(uuid, state), at(0))
    if state is RUNNING:
        table.polled([row(uuid) for uuid in uuids], at(0))
        for uuid in table.take_due(at(DEBOUNCE_SECONDS)):
            table.answered(uuid, reading(uuid, state), at(DEBOUNCE_SECONDS))
    return table


def shown(table: VmTable, uuid: str, now: float) -> Any:
    return next(vm for vm in table.snapshots(at(now)) if vm.uuid == uuid)


def test_all_are_read_once_and_then_in_turn() -> None:
    uuids = [f"vm-{number}" for number in range(20)]
    table = table_of(*uuids)
    read: list[str] = []
    for second in range(1, 21):
        due = table.take_due(at(second))
        assert len(due) == RUNNING_IN_TURN
        read += due
        for uuid in due:
            table.answered(uuid, reading(uuid), at(second))
    assert sorted(read) == sorted(uuids)


def test_those_that_are_off_are_read_more_often() -> None:
    table = table_of(*[f"vm-{number}" for number in range(20)], state=OFF)
    assert len(table.take_due(at(RESYNC_SECONDS + 1))) == OFF_IN_TURN


def test_a_vm_that_changed_is_read_at_once_and_several_events_have_it_read_once() -> None:
    table = table_of("a", "b")
    now = 0.9
    for _ in range(3):
        table.note_change("a")
    assert table.take_due(at(now)) == ("a",)
    table.note_change("a")
    assert "a" not in table.take_due(at(now + DEBOUNCE_SECONDS)), "it is being read"
    table.answered("a", reading("a"), at(now))
    assert "a" in table.take_due(at(now + DEBOUNCE_SECONDS)), "what came while it was read"


def test_a_vm_that_nobody_knew_is_read_and_keeps_nothing_from_being_current() -> None:
    table = table_of("a")
    table.note_change("new")
    assert table.is_current(at(1))
    assert "new" in table.take_due(at(1))
    assert table.answered("new", reading("new"), at(1))
    assert shown(table, "new", 1).name == "name of new"


def test_a_vm_that_is_gone_goes_unless_it_came_again_meanwhile() -> None:
    table = table_of("a", "b")
    for uuid in ("a", "b"):
        table.note_change(uuid)
    assert set(table.take_due(at(0.9))) == {"a", "b"}
    table.note_change("b")
    assert table.gone("a")
    assert table.gone("b")
    assert table.snapshots(at(0.9)) == ()
    assert table.take_due(at(0.9)) == ("b",)


def test_one_that_the_list_does_not_have_is_asked_for_and_not_just_dropped() -> None:
    table = table_of("a", "b")
    table.listed({"a": "name of a"})
    assert "b" in table.take_due(at(0.9))
    assert shown(table, "b", 0.9).state is RUNNING


@pytest.mark.parametrize(
    "changed",
    [row("a", path="/b"), row("a", index=2), row("a", run=2), DomainStatistics("a", 1, (), state=(1, 1)), None],
    ids=["path", "index", "run", "layers", "ended"],
)
def test_statistics_that_show_another_vm_than_before_have_it_read(changed: DomainStatistics | None) -> None:
    table = table_of("a")
    table.polled([row("a", allocated=2)], at(0.5))
    assert table.take_due(at(0.6)) == (), "a figure alone is no change"
    table.polled([changed] if changed is not None else [], at(0.7))
    assert table.take_due(at(0.8)) == ("a",)


def test_a_vm_whose_read_does_not_return_is_marked_and_the_others_are_read_on() -> None:
    table = table_of("a", "b")
    table.note_change("a")
    assert table.take_due(at(0.9)) == ("a",)
    assert shown(table, "a", 5).silent_since is None
    late = 0.9 + SILENT_SECONDS
    seen = shown(table, "a", late)
    assert (seen.state, seen.silent_since) == (VirtualMachineState.UNKNOWN, at(0.9).date)
    assert seen.description == reading("a").description, "what was known stays"
    assert table.is_current(at(late))
    assert table.take_due(at(late)) == ("b",), "it is not asked twice at a time"
    assert table.answered("a", reading("a"), at(late))
    assert shown(table, "a", late).silent_since is None


def test_a_vm_whose_read_fails_is_asked_again_after_a_while_and_marked() -> None:
    table = table_of("a")
    table.note_change("a")
    now = 0.9
    while now < 0.9 + SILENT_SECONDS:
        assert table.take_due(at(now)) == ("a",)
        table.failed("a", at(now))
        assert table.take_due(at(now + RETRY_SECONDS - 0.1)) == ()
        now += RETRY_SECONDS
    assert shown(table, "a", now).silent_since == at(0.9).date
    assert shown(table, "a", now).description is not None
    assert table.is_current(at(now))
    table.take_due(at(now))
    table.answered("a", reading("a"), at(now))
    assert shown(table, "a", now).silent_since is None


def test_a_failed_read_is_made_again_at_once_when_an_event_comes() -> None:
    table = table_of("a")
    table.note_change("a")
    table.take_due(at(0.9))
    table.failed("a", at(0.9))
    table.note_change("a")
    assert table.take_due(at(0.9 + DEBOUNCE_SECONDS)) == ("a",)


def test_a_qemu_without_figures_is_marked_and_the_vms_state_stays_known() -> None:
    table = table_of("a", "b")
    table.polled([row("a", allocated=None), row("b")], at(2))
    assert shown(table, "a", 4).silent_since is None
    now = 2 + SILENT_SECONDS
    table.polled([row("a", allocated=None), row("b")], at(now))
    seen = shown(table, "a", now)
    assert (seen.state, seen.silent_since) == (RUNNING, at(2).date)
    assert shown(table, "b", now).silent_since is None
    table.polled([row("a"), row("b")], at(now + 2))
    assert shown(table, "a", now + 2).silent_since is None


def test_a_vm_that_was_never_read_is_shown_by_its_name_as_unknown() -> None:
    table = VmTable()
    table.listed({"a": "web-1"})
    table.take_due(at(0))
    assert not table.is_current(at(1))
    seen = shown(table, "a", SILENT_SECONDS)
    assert (seen.name, seen.state, seen.description) == ("web-1", VirtualMachineState.UNKNOWN, None)
    assert table.is_current(at(SILENT_SECONDS))


def test_nothing_is_current_from_lost_events_until_all_was_listed_and_read() -> None:
    table = table_of("a", "b")
    table.lose_track()
    assert not table.is_current(at(1))
    table.listed({"a": "name of a", "b": "name of b"})
    for uuid in table.take_due(at(1)):
        assert not table.is_current(at(1))
        table.answered(uuid, reading(uuid), at(1))
    assert table.is_current(at(1))


def test_only_what_the_inventory_shows_counts_as_a_change() -> None:
    table = table_of("a")
    for changed, expected in [
        (reading("a"), False),
        (reading("a", path="/b"), True),
        (reading("a", OFF, path="/b"), True),
        (reading("a", OFF, path="/b", name="renamed"), True),
    ]:
        table.note_change("a")
        assert table.answered("a", changed, at(1)) is expected
    assert shown(table, "a", 1).name == "renamed"


def test_a_vm_whose_read_does_not_return_is_held_and_keeps_its_layers_without_figures() -> None:
    table = table_of("a", "b")
    table.have_all_read()
    assert set(table.take_due(at(0.9))) == {"a", "b"}
    table.answered("b", reading("b"), at(1))
    assert table.held(at(0.9 + HELD_SECONDS - 0.1)) == frozenset()
    assert table.held(at(0.9 + HELD_SECONDS)) == {"a"}
    assert table.running() == {"a", "b"}
    rows = table.polled([row("b", allocated=5)], at(3), left_out=frozenset({"a", "nobody"}))
    assert {each.uuid: each for each in rows} == {"a": row("a").without_figures(), "b": row("b", allocated=5)}
    assert shown(table, "a", 3 + SILENT_SECONDS).silent_since == at(0.9).date
    table.answered("a", reading("a"), at(4))
    table.polled([row("a"), row("b")], at(4))
    assert table.held(at(9)) == frozenset()
    assert shown(table, "a", 4 + SILENT_SECONDS).silent_since is None


def test_the_xml_is_current_until_something_may_have_changed_it() -> None:
    table = table_of("a")
    assert table.current_description("a") == reading("a").description
    table.polled([row("a", index=2)], at(0.7))
    assert table.current_description("a") is None, "a layer was added"
    table.take_due(at(0.8))
    assert table.current_description("a") is None, "it is being read"
    table.answered("a", reading("a", path="/b"), at(0.9))
    assert table.current_description("a") == reading("a", path="/b").description
    table.note_change("a")
    assert table.current_description("a") is None
    assert table.current_description("nobody") is None


def test_vms_that_libvirt_does_not_list_are_presumed_and_corrected_by_the_list() -> None:
    table = VmTable()
    table.presume({"a": "name of a", "gone": "name of gone", "held": "name of held"})
    assert not table.is_current(at(0))
    assert set(table.take_due(at(0))) == {"a", "gone", "held"}
    table.answered("a", reading("a"), at(0))
    table.gone("gone")
    assert not table.is_current(at(1))
    assert table.is_current(at(SILENT_SECONDS)), "one that does not answer is not waited for"
    assert table.names() == {"a": "name of a", "held": "name of held"}
    table.listed({"a": "name of a", "held": "name of held", "off": "name of off"})
    assert table.is_current(at(SILENT_SECONDS)), "the others are as current as before"
    assert "off" in table.take_due(at(SILENT_SECONDS))


def test_what_is_presumed_changes_no_list() -> None:
    table = table_of("a")
    table.presume({"b": "name of b"})
    assert table.names() == {"a": "name of a"}


def test_where_no_poll_is_answered_no_running_vm_counts_as_one_that_answers() -> None:
    table = table_of("a")
    for now in (3, 5, 7):
        table.note_no_poll(at(now))
    assert shown(table, "a", 3 + SILENT_SECONDS - 0.1).silent_since is None
    assert shown(table, "a", 3 + SILENT_SECONDS).silent_since == at(3).date
    table.polled([row("a")], at(3 + SILENT_SECONDS))
    assert shown(table, "a", 3 + 2 * SILENT_SECONDS).silent_since is None


def test_a_vm_is_hung_once_polls_that_were_answered_had_no_figures_of_it_for_a_while() -> None:
    table = table_of("a", "b")
    for second in (2, 4):
        table.polled([row("a", allocated=None), row("b")], at(second))
        assert table.hung(at(second)) == set()
    table.polled([row("a", allocated=None), row("b")], at(2 + HUNG_SECONDS))
    assert table.hung(at(2 + HUNG_SECONDS)) == {"a"}
    table.polled([row("a"), row("b")], at(10))
    assert table.hung(at(10)) == set()


def test_where_no_poll_is_answered_none_is_hung_by_that() -> None:
    table = table_of("a", "b")
    table.note_no_poll(at(2))
    assert table.hung(at(2 + HUNG_SECONDS)) == set()


def test_a_vm_that_has_ended_is_not_hung() -> None:
    table = table_of("a")
    table.polled([row("a", allocated=None)], at(2))
    table.polled([], at(10))
    assert table.hung(at(10)) == set()
