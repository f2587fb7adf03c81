"""A program that reads, writes, computes or prints is at work; one that does none of it for long is not."""

import ast
from pathlib import Path

import pytest

import diskmigration
from diskmigration.agent.storage import process_activity
from diskmigration.agent.storage.process_activity import Counters, ProcessActivity

IO = """rchar: 100
wchar: 20
syscr: 3
syscw: 4
read_bytes: 4096
write_bytes: 8192
cancelled_write_bytes: 0
"""
STAT = "4242 (qemu-img (x) y) D 1 4242 4242 0 -1 4194304 200 0 0 0 17 5 0 0 20 0 4 0 100 0 0"


def test_the_kernels_counters_are_read() -> None:
    assert process_activity.counters(IO, STAT) == Counters(io_bytes=100 + 20 + 3 + 4 + 4096 + 8192, ticks=22)


@pytest.mark.parametrize(("io", "stat"), [("", ""), (IO, ""), ("", STAT)])
def test_what_cannot_be_read_counts_for_nothing(io: str, stat: str) -> None:
    found = process_activity.counters(io, stat)
    assert (found.io_bytes > 0, found.ticks > 0) == (bool(io), bool(stat))


@pytest.mark.parametrize(
    ("counters", "has_printed"),
    [(Counters(2, 1), False), (Counters(1, 2), False), (Counters(1, 1), True)],
    ids=["it reads or writes", "it computes", "it prints"],
)
def test_whatever_it_does_is_a_heartbeat(counters: Counters, has_printed: bool) -> None:
    beat = ProcessActivity(0.0, Counters(1, 1)).advanced(now=50.0, counters=counters, has_printed=has_printed)
    assert not beat.has_stopped(now=60.0, patience=20.0)
    assert beat.has_stopped(now=71.0, patience=20.0)


def test_one_that_does_nothing_has_stopped_after_its_time() -> None:
    beat = ProcessActivity(0.0, Counters(1, 1))
    for now in (5.0, 10.0, 20.0):
        beat = beat.advanced(now=now, counters=Counters(1, 1))
    assert not beat.has_stopped(now=20.0, patience=20.0)
    assert beat.has_stopped(now=20.1, patience=20.0)


def test_a_low_bandwidth_is_no_standstill() -> None:
    assert process_activity.patience_at(None) == process_activity.PATIENCE_SECONDS
    assert process_activity.patience_at(1024) > 65536


WORK = {"create", "measure", "data_bytes", "copy", "commit", "is_equal", "has_own_data"}
"""What qemu-img does that grows with the disk."""


def _calls() -> list[tuple[str, ast.Call]]:
    """Every call of such work in the product, with where it stands."""
    paths = sorted(Path(diskmigration.__file__).parent.rglob("*.py"))
    nodes = [(path, node) for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return [
        (f"{path.name}:{node.lineno} {node.func.attr}", node)
        for path, node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "qemu_img"
        and node.func.attr in WORK
    ]


def test_all_work_that_grows_with_the_disk_asks_whether_to_go_on() -> None:
    calls = _calls()
    assert {name.split()[1] for name, _ in calls} == WORK
    deaf = [name for name, call in calls if "keep_on" not in {keyword.arg for keyword in call.keywords}]
    assert deaf == []
