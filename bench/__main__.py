"""`python -m bench`: measure, and write docs/benchmarks.md. What is complete is kept when the rest is interrupted."""

import argparse
import signal
import sys
from pathlib import Path

from bench import copies, extension, footprint, latencies, report
from bench.figures import merged
from bench.plan import QUICK, WHOLE

_GROUPS = {
    copies.GROUP: copies.measure,
    latencies.GROUP: latencies.measure,
    extension.GROUP: extension.measure,
    footprint.GROUP: footprint.measure,
}
_REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure the groups that are asked for, and print each figure as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(_GROUPS), default=list(_GROUPS), help="measure these groups")
    parser.add_argument("--quick", action="store_true", help="small disks and few turns: shows that everything works")
    parser.add_argument("--output", type=Path, help="where benchmarks.md goes (default: docs, with --quick dist/bench)")
    options = parser.parse_args()
    output = options.output or (_REPOSITORY / "dist" / "bench" if options.quick else _REPOSITORY / "docs")
    # As Ctrl-C: what runs is ended in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = QUICK if options.quick else WHOLE
    for group in options.only:
        print(f"{group}:", flush=True)
        measured = []
        for figure in _GROUPS[group](plan):
            measured.append(figure)
            print(report.row(figure), flush=True)
        report.write(output, merged(report.read(output), measured), plan)
    print()
    print(report.table(report.read(output)))
    print(f"\nWritten: {output / 'benchmarks.md'}")


if __name__ == "__main__":
    main()
