"""What is measured, and how: /proc for the processes, the apiserver's own metrics for its requests."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_REQUESTS = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<count>\S+)$", re.MULTILINE)
_EVENTS = re.compile(
    r'^apiserver_watch_events_total\{.*(?:resource="diskmigrations"|kind="DiskMigration").*\} (\S+)$', re.MULTILINE
)
_STORED = re.compile(r"^apiserver_storage_size_bytes\{.*\} (\S+)$", re.MULTILINE)
_REFUSED = re.compile(r"^apiserver_flowcontrol_rejected_requests_total\{(?P<labels>.*)\} (?P<count>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Usage:
    """What a process has used: its memory at its peak and now, in bytes, and its processor time."""

    peak_bytes: int
    resident_bytes: int
    cpu_seconds: float


def usage(pid: int) -> Usage:
    """As proc(5) has it."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Usage(
        peak_bytes=int(lines["VmHWM"].split()[0]) * 1024,
        resident_bytes=int(lines["VmRSS"].split()[0]) * 1024,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
    )


@dataclass(frozen=True)
class Served:
    """What the apiserver has served: requests by verb and resource, and events of DiskMigrations to all watches."""

    requests: dict[str, int]
    watch_events: int
    stored_bytes: int

    def since(self, before: "Served") -> "Served":
        """What came after that; the size stays the last one."""
        requests = {name: count - before.requests.get(name, 0) for name, count in self.requests.items()}
        return Served(
            {name: count for name, count in requests.items() if count},
            self.watch_events - before.watch_events,
            self.stored_bytes,
        )

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())


def served(metrics: str) -> Served:
    """Reads the text of the apiserver's /metrics."""
    requests: Counter[str] = Counter()
    for labels, count in _labelled(_REQUESTS, metrics):
        resource = "/".join(part for part in (labels.get("resource"), labels.get("subresource")) if part)
        requests[f"{labels['verb']} {resource}"] += count
    return Served(
        dict(requests),
        sum(int(float(count)) for count in _EVENTS.findall(metrics)),
        max((int(float(size)) for size in _STORED.findall(metrics)), default=0),
    )


def refused(metrics: str) -> dict[str, int]:
    """The requests for which the apiserver had no room, by their priority level and why; from the same text.

    Why is what API Priority and Fairness says: `queue-full`, `concurrency-limit`, `time-out` (each a 429), or
    `cancelled`, where the caller waited no longer.
    """
    counts: Counter[str] = Counter()
    for labels, count in _labelled(_REFUSED, metrics):
        counts[f"{labels['priority_level']}: {labels['reason']}"] += count
    return dict(counts)


def _labelled(series: re.Pattern[str], metrics: str) -> Iterator[tuple[dict[str, str], int]]:
    """The labels and the count of each line of that series."""
    for found in series.finditer(metrics):
        yield dict(_LABEL.findall(found["labels"])), int(float(found["count"]))


def quantile(values: Iterable[float], share: float) -> float:
    """The nearest-rank quantile."""
    ordered: Sequence[float] = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
