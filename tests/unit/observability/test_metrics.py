"""docs/reference/metrics.md, the two programs and the alerts tell of the same metrics."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from diskmigration.agent import metrics as agent_metrics
from diskmigration.cluster import request_metrics
from diskmigration.controller import metrics as operator_metrics

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "reference" / "metrics.md"
RULES = ROOT / "deploy" / "components" / "prometheus" / "rules.yaml"
BOUNDED_LABELS = {"call", "phase", "reason", "storage_domain"}


def documented(heading: str) -> set[tuple[str, str, tuple[str, ...], str]]:
    """The rows below a heading: name, type, labels and help."""
    section = DOCUMENT.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?)\| (.*) \|$", section, re.MULTILINE)
    return {(name, kind, tuple(re.findall(r"`(\w+)`", labels)), told) for name, kind, labels, told in rows}


def defined(module: ModuleType) -> set[tuple[str, str, tuple[str, ...], str]]:
    """The same of a program's metrics."""
    found = set()
    for metric in vars(module).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            # The only place that has a metric's labels and help before it was ever counted.
            described = next(iter(metric.describe()))
            name = f"{described.name}_total" if described.type == "counter" else described.name
            found.add((name, described.type, tuple(metric._labelnames), described.documentation))
    return found


@pytest.mark.parametrize(
    ("heading", "module"),
    [("The operator", operator_metrics), ("The agent", agent_metrics), ("Both", request_metrics)],
    ids=["operator", "agent", "both"],
)
def test_the_document_and_the_program_agree(heading: str, module: ModuleType) -> None:
    metrics = defined(module)
    assert metrics
    assert documented(heading) == metrics


@pytest.mark.parametrize("module", [operator_metrics, agent_metrics], ids=["operator", "agent"])
def test_no_label_is_a_users_word(module: ModuleType) -> None:
    for name, _, labels, _ in defined(module):
        assert name.startswith("diskmigration_")
        assert set(labels) <= BOUNDED_LABELS


def test_alerts_ask_for_metrics_that_there_are_and_are_documented() -> None:
    alerts = {rule["alert"]: rule["expr"] for rule in yaml.safe_load(RULES.read_text())["spec"]["groups"][0]["rules"]}
    metrics = {
        name for module in (operator_metrics, agent_metrics, request_metrics) for name, _, _, _ in defined(module)
    }
    for expression in alerts.values():
        asked = {name.removesuffix("_bucket") for name in re.findall(r"diskmigration_\w+", expression)}
        assert asked <= metrics
    install = (ROOT / "docs" / "how-to" / "install.md").read_text()
    assert re.findall(r"^\| (DiskMigration\w+) \|", install, re.MULTILINE) == list(alerts)
