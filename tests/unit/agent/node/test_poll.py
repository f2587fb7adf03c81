"""A poll that is stuck keeps no other from being made, and soon none is stuck any more."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from diskmigration.agent.hypervisor.qemu_calls import QemuCalls
from diskmigration.agent.hypervisor.statistics import DomainStatistics
from diskmigration.agent.node.poll import POLL_SECONDS, SILENT_SECONDS, Answer, Poll


def answer(number: int) -> Answer:
    return Answer((DomainStatistics("vm", number, ()),), frozenset(), 0.0)


class Libvirt:
    """Answers each call but one for each QEMU that hangs: that QEMU lets the others pass."""

    def __init__(self, hanging: int = 0) -> None:
        self.free_to_hang = hanging
        self.stuck: list[Future[Any]] = []
        self.calls = 0

    def submit(self, _read: Callable[[Any], Any]) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        if self.free_to_hang:
            self.free_to_hang -= 1
            self.stuck.append(future)
        else:
            future.set_result(answer(self.calls))
        return future


def poll_of(libvirt: Libvirt, most: int = 12) -> tuple[Poll, list[Any]]:
    heard: list[Any] = []
    return Poll(libvirt, heard.append, QemuCalls(), most=most), heard


def turns(poll: Poll, count: int, *, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        poll.turn(number * POLL_SECONDS)


def test_where_all_answer_one_call_is_made_in_each_turn() -> None:
    libvirt = Libvirt()
    poll, heard = poll_of(libvirt)
    turns(poll, 10)
    poll.turn(9 * POLL_SECONDS + 0.1)
    assert libvirt.calls == len(heard) == 10


@pytest.mark.parametrize("hanging", [1, 2, 8])
def test_many_that_hang_are_soon_passed_over(hanging: int) -> None:
    libvirt = Libvirt(hanging)
    poll, heard = poll_of(libvirt)
    turns(poll, 5)
    assert heard, "within 10 s"
    calls = libvirt.calls
    turns(poll, 10, begin=5)
    assert libvirt.calls == calls + 10, "and then one call a turn is enough again"
    assert len(libvirt.stuck) == hanging


def test_no_more_calls_are_under_way_than_allowed() -> None:
    libvirt = Libvirt(100)
    poll, heard = poll_of(libvirt, most=12)
    turns(poll, 50)
    assert (libvirt.calls, heard) == (12, [])
    libvirt.free_to_hang = 0
    for future in libvirt.stuck:
        future.set_result(answer(0))
    turns(poll, 1, begin=50)
    assert libvirt.calls == 13


def test_an_answer_that_comes_late_replaces_no_newer_one() -> None:
    libvirt = Libvirt(1)
    poll, heard = poll_of(libvirt)
    turns(poll, 2)
    newest = heard[-1]
    libvirt.stuck[0].set_result(answer(0))
    assert heard[-1] == newest


def test_a_call_that_fails_is_made_again() -> None:
    libvirt = Libvirt(1)
    poll, heard = poll_of(libvirt)
    turns(poll, 1)
    libvirt.stuck[0].set_exception(OSError("gone"))
    turns(poll, 1, begin=1)
    assert len(heard) == 1


class Reader:
    """Says what it was asked for."""

    def statistics(self) -> tuple[DomainStatistics, ...]:
        return tuple(DomainStatistics(uuid, 1, ()) for uuid in ("a", "b", "held"))

    def statistics_of(self, uuids: Any) -> tuple[DomainStatistics, ...]:
        return tuple(DomainStatistics(uuid, 1, ()) for uuid in sorted(uuids))


class Direct:
    """Runs each read at once."""

    def submit(self, read: Callable[[Any], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(read(Reader()))
        return future


def test_where_libvirt_holds_the_lock_of_a_vm_the_others_are_asked_for_by_name() -> None:
    heard: list[Answer] = []
    poll = Poll(Direct(), heard.append, QemuCalls(), most=12)
    running = frozenset({"a", "b", "held"})
    poll.turn(0, running=running)
    poll.turn(POLL_SECONDS, running=running, held=frozenset({"held", "off"}))
    assert [[row.uuid for row in each.rows] for each in heard] == [["a", "b", "held"], ["a", "b"]]
    assert heard[1].left_out == {"held", "off"}


def test_it_is_silent_while_nothing_comes() -> None:
    libvirt = Libvirt(2)
    poll, heard = poll_of(libvirt)
    poll.turn(0)
    assert not poll.is_silent(SILENT_SECONDS - 0.1)
    assert poll.is_silent(SILENT_SECONDS)
    turns(poll, 2, begin=1)
    assert heard
    assert not poll.is_silent(2 * POLL_SECONDS + SILENT_SECONDS - 0.1)
