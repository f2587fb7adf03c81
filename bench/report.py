"""The figures as JSON and as docs/explanation/benchmarks.md. Only `write` touches files."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from string import Template

from bench.figures import Compared, Figure, from_json
from bench.pictures import draw
from bench.plan import MEBIBYTE, Plan
from bench.statistics import Spread, spread

_WORDS = Path(__file__).with_name("benchmarks.md.in")
_HEAD = (
    "| figure | ours | beside it | ratio or difference | goal | met |",
    "| --- | --- | --- | --- | --- | --- |",
)


def read(directory: Path) -> list[Figure]:
    """Return the figures of earlier runs, or none."""
    kept = directory / "benchmarks" / "figures.json"
    return [from_json(each) for each in json.loads(kept.read_text())["figures"]] if kept.exists() else []


def write(directory: Path, figures: Sequence[Figure], plan: Plan) -> None:
    """Write all of it anew, pictures included."""
    own = directory / "benchmarks"
    own.mkdir(parents=True, exist_ok=True)
    document = {"figures": [figure.to_json() for figure in figures]}
    (own / "figures.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    pictures = draw(figures, own)
    shown = "\n\n".join(f"![{name}](benchmarks/{name}.svg)" for name in pictures)
    text = Template(_WORDS.read_text()).substitute(
        machine=machine(plan),
        table=table(figures),
        pictures=shown,
        watermark=f"{plan.thin.watermark // MEBIBYTE} MiB",
        chunk=f"{plan.thin.chunk // MEBIBYTE} MiB",
        window=number(plan.window_seconds),
    )
    (directory / "benchmarks.md").write_text(text)


def table(figures: Sequence[Figure]) -> str:
    """Return the tables, one a group."""
    groups = list(dict.fromkeys(figure.group for figure in figures))
    parts = []
    for group in groups:
        rows = [row(figure) for figure in figures if figure.group == group]
        parts.append("\n".join([f"### {group}", "", *_HEAD, *rows]))
    return "\n\n".join(parts)


def machine(plan: Plan) -> str:
    """Say on what it was measured last, and how much."""
    amount = " It was the quick round: too few and too small to judge the goals by." if plan.is_quick else ""
    return f"The last run was on {os.cpu_count()} processors, Linux {platform.release()}.{amount}"


def row(figure: Figure) -> str:
    """Return its line in the table."""
    beside = f"{shown(spread(figure.others), figure.unit)} ({figure.beside})" if figure.others else ""
    name = f"{figure.name}. {figure.note}" if figure.note else figure.name
    cells = [name, shown(spread(figure.ours), figure.unit), beside, _compared(figure), _goal(figure), _met(figure)]
    return f"| {' | '.join(cells)} |"


def _compared(figure: Figure) -> str:
    compared = figure.goal.compared if figure.goal is not None else Compared.RATIO
    if compared is Compared.OURS or not figure.others:
        return ""
    return shown(figure.outcome(), figure.unit if compared is Compared.DIFFERENCE else "×")


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    unit = "×" if figure.goal.compared is Compared.RATIO else figure.unit
    more = " more" if figure.goal.compared is Compared.DIFFERENCE else ""
    return f"{'≥' if figure.goal.at_least else '≤'} {number(figure.goal.limit)} {unit}{more}"


def _met(figure: Figure) -> str:
    return {True: "yes", False: "**no**", None: ""}[figure.is_met()]


def shown(values: Spread, unit: str) -> str:
    """Return a median with its spread and unit."""
    return f"{number(values.median)} {unit} ({number(values.least)} – {number(values.greatest)})"


def number(value: float) -> str:
    """Return three digits that matter, and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
