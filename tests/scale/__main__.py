"""`python -m tests.scale`: two runs, ten times as many migrations in the second, and a table."""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.scale.run import Figures, Load, run
from tests.scale.table import table, write_document

_ROOT = Path(__file__).parents[2]
DOCUMENT = _ROOT / "docs" / "explanation" / "scale.md"
CALM = 100
FIGURES = _ROOT / "dist" / "scale.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--migrations", type=int, nargs="+", default=[1000, 10000], help="of each run, the growth last")
    parser.add_argument("--rate", type=float, default=100.0, help="migrations applied a second")
    parser.add_argument(
        "--step-seconds", type=float, nargs="+", default=[5.0, 30.0], help="how long a phase takes, about; of each run"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.relative_to(_ROOT)}")
    options = parser.parse_args()
    started = time.monotonic()
    figures = []
    for number, migrations in enumerate(options.migrations):
        load = Load(
            agents=options.agents,
            migrations=migrations,
            rate=options.rate,
            step_seconds=options.step_seconds[min(number, len(options.step_seconds) - 1)],
            calm=CALM,
            queued=migrations // 10,
            places=max(1, migrations // 100),
            cluster_for=max(options.migrations) + CALM,
        )
        figures.append(_run(load, started))
        # After each run: the second takes long.
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps([asdict(one) for one in figures], indent=2) + "\n")
    print(table(figures))
    if options.write:
        write_document(DOCUMENT, figures)


def _run(load: Load, started: float) -> Figures:
    def tell(what: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {what}", flush=True)

    with tempfile.TemporaryDirectory(prefix="dm-scale-", dir="/var/tmp") as directory:
        return run(Path(directory), load, tell)


if __name__ == "__main__":
    main()
