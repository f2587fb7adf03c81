"""The table holds goal and figure side by side, and figures outlive the run that measured them."""

from pathlib import Path

from bench import report
from bench.figures import Compared, Figure, Goal, from_json, merged
from bench.latencies import phase_seconds
from bench.plan import QUICK

_MOVE = Figure(
    "copies", "Direct, file → loop", "s", (10.2, 10.4, 10.0), (10.0, 10.0, 10.0), "script", Goal(Compared.RATIO, 1.02)
)
_DELAY = Figure("latencies", "first byte", "s", (0.7, 0.6), goal=Goal(Compared.OURS, 0.5))
_RATE = Figure("extension", "rate", "MiB/s", (90.0,), (10.0,), "rival", Goal(Compared.RATIO, 10, at_least=True))


def test_a_line_has_both_sides_the_goal_and_whether_it_is_met() -> None:
    assert report.row(_MOVE) == (
        "| Direct, file → loop | 10.2 s (10 – 10.4) | 10 s (10 – 10) (script) | 1.02 × (1 – 1.04) | ≤ 1.02 × | yes |"
    )
    assert report.row(_DELAY) == "| first byte | 0.65 s (0.6 – 0.7) |  |  | ≤ 0.5 s | **no** |"
    assert (
        report.row(_RATE)
        == "| rate | 90 MiB/s (90 – 90) | 10 MiB/s (10 – 10) (rival) | 9 × (9 – 9) | ≥ 10 × | **no** |"
    )


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    report.write(tmp_path, [_MOVE, _DELAY, _RATE], QUICK)
    assert report.read(tmp_path) == [_MOVE, _DELAY, _RATE]
    text = (tmp_path / "benchmarks.md").read_text()
    assert report.row(_MOVE) in text
    assert "$" not in text
    assert (tmp_path / "benchmarks" / "copies-seconds.svg").read_text().startswith("<?xml")


def test_a_group_that_is_measured_again_takes_the_place_of_the_old_one() -> None:
    newer = from_json({**_DELAY.to_json(), "ours": [0.1]})
    assert merged([_MOVE, _DELAY], [newer]) == [_MOVE, newer]


def test_phases_last_until_the_next_line_of_the_same_migration() -> None:
    lines = [
        '{"time": "2030-01-01T00:00:00+00:00", "migration": "vms/a", "phase": "Scheduled"}',
        '{"time": "2030-01-01T00:00:01+00:00", "migration": "vms/b", "phase": "Scheduled"}',
        "not of the log's own",
        '{"time": "2030-01-01T00:00:03+00:00", "migration": "vms/a", "phase": "Replicating"}',
        '{"time": "2030-01-01T00:00:04+00:00", "migration": "vms/a", "phase": "Succeeded"}',
    ]
    assert phase_seconds(lines) == {"Scheduled": [3.0], "Replicating": [1.0]}
