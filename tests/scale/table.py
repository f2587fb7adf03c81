"""The table: goal and figure side by side, for the terminal and the document."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.scale.run import Figures

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

MEMORY_GOAL_BYTES = 500 * 10**6
LATENCY_GOAL_SECONDS = 2.0
LEASES = "diskmigration-leases"
"""The priority level of the agents' and the operator's Leases (deploy/base/request-priority.yaml)."""
GIVEN_UP = "cancelled"
"""Why the apiserver did not serve a request that its caller gave up before its turn had come."""
LINEAR = 1.1
"""Ten times the load may cost eleven times: the rest is the machine's noise."""

Row = tuple[str, str, list[str], str]
"""What, the goal, a figure for each run, and how it grew or whether it is met."""


def table(figures: Sequence[Figures]) -> str:
    """Markdown that reads well on a terminal too."""
    heads = [f"{one.load.migrations:,} migrations" for one in figures]
    lines = [("", "goal", *heads, "growth")]
    lines += [(what, goal, *values, verdict) for what, goal, values, verdict in _rows(figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])


def write_document(document: Path, figures: Sequence[Figures]) -> None:
    """Puts the table between the document's markers."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n\n{table(figures)}\n\n{_requests(figures[-1])}\n\n{END}{after}")


def _rows(figures: Sequence[Figures]) -> list[Row]:
    return [
        ("agents", "", [f"{one.load.agents:,}" for one in figures], ""),
        (
            "migrations that ended Succeeded",
            "all",
            [f"{one.ended:,} of {one.wanted:,}" for one in figures],
            _met(all(one.ended == one.wanted for one in figures)),
        ),
        (
            "events of other nodes' migrations at an agent",
            "0",
            [str(one.foreign_events) for one in figures],
            _met(not any(one.foreign_events for one in figures)),
        ),
        _growing("events at an agent, median", "", [one.agent_events_p50 for one in figures], "{:.0f}", figures),
        _growing("watch events sent by the apiserver", "", [one.watch_events for one in figures], "{:,.0f}", figures),
        ("applied a second", "100", [f"{one.rate:.0f}" for one in figures], ""),
        ("apply -> Scheduled, p50", "", [f"{one.latency_p50:.2f} s" for one in figures], ""),
        (
            "apply -> Scheduled, p99",
            f"< {LATENCY_GOAL_SECONDS:.0f} s",
            [f"{one.latency_p99:.2f} s" for one in figures],
            _met(all(one.latency_p99 < LATENCY_GOAL_SECONDS for one in figures)),
        ),
        (
            f"the same, {figures[0].load.calm_rate:.0f} applied a second, p50",
            "",
            [f"{one.calm_p50:.2f} s" for one in figures],
            "",
        ),
        (
            f"the same, {figures[0].load.calm_rate:.0f} applied a second, p99",
            f"< {LATENCY_GOAL_SECONDS:.0f} s",
            [f"{one.calm_p99:.2f} s" for one in figures],
            _met(all(one.calm_p99 < LATENCY_GOAL_SECONDS for one in figures)),
        ),
        (
            "operator: memory at its peak",
            f"< {MEMORY_GOAL_BYTES // 10**6} MB",
            [_megabytes(one.operator_peak_bytes) for one in figures],
            _met(all(one.operator_peak_bytes < MEMORY_GOAL_BYTES for one in figures)),
        ),
        ("operator: memory with no migration", "", [_megabytes(one.operator_idle_bytes) for one in figures], ""),
        _growing(
            "operator: processor time", "linear", [one.operator_cpu_seconds for one in figures], "{:.1f} s", figures
        ),
        (
            "operator: share of a core while applying",
            "",
            [f"{one.operator_apply_cpu_share:.0%}" for one in figures],
            "",
        ),
        ("operator: share of a core, idle", "", [f"{one.idle_operator_cpu_share:.0%}" for one in figures], ""),
        _growing("requests at the apiserver", "linear", [_own(one.requests) for one in figures], "{:,.0f}", figures),
        ("requests refused (429)", "", [f"{_refused(one.refused):,}" for one in figures], ""),
        (
            "requests refused (429): Leases",
            "0",
            [f"{_refused(one.refused, of=LEASES):,}" for one in figures],
            _met(not any(_refused(one.refused, of=LEASES) for one in figures)),
        ),
        ("requests whose caller waited no longer", "", [f"{_given_up(one.refused):,}" for one in figures], ""),
        (
            "requests whose caller waited no longer: Leases",
            "",
            [f"{_given_up(one.refused, of=LEASES):,}" for one in figures],
            "",
        ),
        ("requests a second while applying", "", [f"{one.apply_requests_per_second:.0f}" for one in figures], ""),
        ("requests a second, idle", "", [f"{one.idle_requests_per_second:.0f}" for one in figures], ""),
        _growing("apiserver: processor time", "", [one.api_server_cpu_seconds for one in figures], "{:.0f} s", figures),
        ("apiserver: share of a core, idle", "", [f"{one.idle_api_server_cpu_share:.0%}" for one in figures], ""),
        ("apiserver: memory at its peak", "", [_megabytes(one.api_server_peak_bytes) for one in figures], ""),
        ("etcd: memory at its peak", "", [_megabytes(one.etcd_peak_bytes) for one in figures], ""),
        ("one migration that has ended, as JSON", "", [f"{one.object_bytes:,} bytes" for one in figures], ""),
        *_restarts(figures),
        ("queued for few places", "", [f"{one.load.queued:,} for {one.load.places:,}" for one in figures], ""),
        (
            "status writes of the operator and agents for each of them",
            "",
            [f"{_status_writes(one.queue_requests) / max(1, one.load.queued):.1f}" for one in figures],
            "",
        ),
        (
            "operator: processor time for each of them",
            "linear",
            [f"{1000 * one.queue_operator_cpu_seconds / max(1, one.load.queued):.0f} ms" for one in figures],
            "",
        ),
    ]


def _restarts(figures: Sequence[Figures]) -> list[Row]:
    rows: list[Row] = []
    for number, restart in enumerate(figures[0].restarts):
        ready = [one.restarts[number].ready_seconds for one in figures]
        rows += [
            (
                f"operator started anew, {restart.objects}: ready after",
                "linear",
                [f"{seconds:.1f} s" for seconds in ready],
                "",
            ),
            (
                f"operator started anew, {restart.objects}: steady after",
                "linear",
                [f"{one.restarts[number].steady_seconds:.1f} s" for one in figures],
                "",
            ),
        ]
    return rows


def _growing(what: str, goal: str, values: Sequence[float], shown: str, figures: Sequence[Figures]) -> Row:
    load = figures[-1].load.migrations / figures[0].load.migrations
    grown = values[-1] / values[0] if values[0] else 0.0
    told = f"x {grown:.1f} of x {load:.0f}" if load > 1 else ""
    if goal and load > 1:
        told += f", {_met(grown <= load * LINEAR)}"
    return what, goal, [shown.format(value) for value in values], told


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 10**6:.0f} MB"


def _own(requests: Mapping[str, int]) -> int:
    """Without the Leases, which the agents renew whatever there is to do."""
    return sum(count for request, count in requests.items() if "leases" not in request)


def _refused(counts: Mapping[str, int], *, of: str = "") -> int:
    """What the apiserver refused, of one priority level or of all."""
    return sum(count for why, count in counts.items() if why.startswith(of) and not why.endswith(GIVEN_UP))


def _given_up(counts: Mapping[str, int], *, of: str = "") -> int:
    return sum(count for why, count in counts.items() if why.startswith(of) and why.endswith(GIVEN_UP))


def _status_writes(requests: Mapping[str, int]) -> int:
    return sum(requests.get(f"{verb} diskmigrations/status", 0) for verb in ("PATCH", "APPLY"))


def _requests(one: Figures) -> str:
    """What the requests of a run were."""
    lines = [f"The requests of the run with {one.load.migrations:,} migrations:", "", "| request | number | for each |"]
    lines.append("| --- | --- | --- |")
    for request, count in sorted(one.requests.items(), key=lambda item: -item[1])[:12]:
        lines.append(f"| {request} | {count:,} | {count / one.load.migrations:.1f} |")
    return "\n".join(lines)
