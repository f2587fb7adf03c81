"""The pictures of docs/explanation/benchmarks.md: each pair of medians as two bars with their spread."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure
from bench.statistics import spread


def draw(figures: Sequence[Figure], directory: Path) -> list[str]:
    """Draw a picture a group into the directory as SVG, and return their names without the ending."""
    # matplotlib keeps a cache of fonts, which is no business of the home directory.
    os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
    import matplotlib as mpl  # noqa: PLC0415 - after its directory is known

    mpl.use("svg")
    # The same figures make the same file.
    mpl.rcParams["svg.hashsalt"] = "diskmigration"
    names = []
    for group in dict.fromkeys(figure.group for figure in figures):
        for unit in dict.fromkeys(figure.unit for figure in figures if figure.group == group):
            name = f"{group}-{_word(unit)}"
            _bars([f for f in figures if f.group == group and f.unit == unit], unit, directory / f"{name}.svg")
            names.append(name)
    return names


def _bars(figures: Sequence[Figure], unit: str, file: Path) -> None:
    from matplotlib.figure import Figure as Sheet  # noqa: PLC0415 - as above

    sheet = Sheet(figsize=(9, 1.2 + 0.5 * len(figures)), layout="constrained")
    axes = sheet.subplots()
    for shift, color, who in ((-0.2, "tab:blue", "ours"), (0.2, "tab:gray", "beside it")):
        sides = [(at, f.ours if who == "ours" else f.others) for at, f in enumerate(figures)]
        measured = [(at, spread(values)) for at, values in sides if values]
        if not measured:
            continue
        axes.barh(
            [at + shift for at, _ in measured],
            [each.median for _, each in measured],
            height=0.38,
            color=color,
            label=who,
            xerr=[
                [each.median - each.least for _, each in measured],
                [each.greatest - each.median for _, each in measured],
            ],
        )
    axes.set_yticks(range(len(figures)), [figure.name for figure in figures], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.legend()
    sheet.savefig(file, metadata={"Date": None})


def _word(unit: str) -> str:
    return {"s": "seconds", "%": "percent", "MiB/s": "rate", "MiB": "bytes", "calls": "calls"}[unit]
