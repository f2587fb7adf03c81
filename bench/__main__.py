"""`python -m bench`: measure, and write benchmarks.md. What is complete is kept when the rest is interrupted."""

import argparse
import signal
import sys
import traceback
from pathlib import Path

from bench import copies, designs, extension, footprint, latencies, report
from bench.figures import merged
from bench.plan import QUICK, WHOLE, Plan

_GROUPS = {
    copies.GROUP: copies.measure,
    latencies.GROUP: latencies.measure,
    extension.GROUP: extension.measure,
    designs.GROUP: designs.measure,
    footprint.GROUP: footprint.measure,
}
_REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure the groups that are asked for, and print each figure as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(_GROUPS), default=list(_GROUPS), help="measure these groups")
    parser.add_argument("--quick", action="store_true", help="small disks and few turns: shows that everything works")
    parser.add_argument(
        "--output", type=Path, help="where benchmarks.md goes (default: docs/explanation, with --quick dist/bench)"
    )
    options = parser.parse_args()
    output = options.output or _REPOSITORY / ("dist/bench" if options.quick else "docs/explanation")
    # As Ctrl-C: what runs is ended in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan = QUICK if options.quick else WHOLE
    failed = [group for group in options.only if not _measure(group, plan, output)]
    print()
    print(report.table(report.read(output)))
    print(f"\nWritten: {output / 'benchmarks.md'}")
    if failed:
        sys.exit(f"Not measured to the end, see above: {', '.join(failed)}")


def _measure(group: str, plan: Plan, output: Path) -> bool:
    """Measure a group and write what there is of it; False when it failed, which does not end the others."""
    print(f"{group}:", flush=True)
    measured = []
    try:
        for figure in _GROUPS[group](plan):
            measured.append(figure)
            print(report.row(figure), flush=True)
    except Exception:  # noqa: BLE001 - half an hour of the other groups is not lost for it
        traceback.print_exc()
        return False
    finally:
        # A part of a group takes the place of all of it: figures of two runs are never mixed in one.
        if measured:
            report.write(output, merged(report.read(output), measured), plan)
    return True


if __name__ == "__main__":
    main()
