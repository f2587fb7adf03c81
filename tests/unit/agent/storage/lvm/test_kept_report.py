"""A report of lvm2 is read once for all who ask within a while, and a failure counts for a while too."""

import itertools
import threading

import pytest

from diskmigration.agent.storage.lvm import kept_report
from diskmigration.agent.storage.lvm.kept_report import KeptReport
from diskmigration.api.errors import MigrationError, Reason

LONG = 600.0
SLOW = 0.2


def counted() -> KeptReport[int]:
    return KeptReport(itertools.count().__next__)


def test_one_that_is_young_enough_is_not_read_again() -> None:
    report = counted()
    assert [report.get(LONG) for _ in range(3)] == [0, 0, 0]


def test_without_an_age_it_is_read_now() -> None:
    report = counted()
    assert [report.get(0.0) for _ in range(3)] == [0, 1, 2]


def test_after_a_change_it_is_read_again() -> None:
    report = counted()
    report.get(LONG)
    report.forget()
    assert report.get(LONG) == 1


def test_one_that_was_read_while_the_group_changed_is_not_kept() -> None:
    numbers = itertools.count()

    def read() -> int:
        report.forget()
        return next(numbers)

    report = KeptReport(read)
    assert [report.get(LONG) for _ in range(2)] == [0, 1]


def test_one_that_is_slow_is_not_read_for_each_who_asks() -> None:
    numbers = itertools.count()

    def read() -> int:
        threading.Event().wait(SLOW)  # how long it takes is what is tested
        return next(numbers)

    report = KeptReport(read)
    assert [report.get(SLOW / 100) for _ in range(3)] == [0, 0, 0]


def test_a_failure_is_told_again_to_those_who_only_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = itertools.count()

    def read() -> int:
        next(reads)
        raise MigrationError(Reason.STORAGE_FAILED, "lvm2 is away")

    report = KeptReport(read)
    for max_age in (LONG, LONG, 0.0):
        with pytest.raises(MigrationError, match="lvm2 is away"):
            report.get(max_age)
    assert next(reads) == 2
    monkeypatch.setattr(kept_report, "_FAILURE_SECONDS", 0.0)
    with pytest.raises(MigrationError):
        report.get(LONG)
    assert next(reads) == 4
