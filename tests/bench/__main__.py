"""
The benchmark: ``python -m tests.bench [a b c d e f g h] [--quick]``; not part of the tests.
``soak [--minutes 10]`` runs only if it is named.

Every figure stands beside a yardstick that was measured in the same run, in turn with it, on the same machine:
what holds elsewhere is the ratio. Servers are processes of their own, at the default log level, with their log
in a file; the database is a SQLite file on disk. Exits 1 only if something was lost or wrong.
"""

import argparse
import gc
import pathlib
import sys
import tempfile
import traceback

from tests.bench import line_a, line_b, line_c, line_d, line_e, line_f, line_g, line_h, soak
from tests.bench.report import Run

_LINES = {
    "a": line_a.measure,
    "b": line_b.measure,
    "c": line_c.measure,
    "d": line_d.measure,
    "e": line_e.measure,
    "f": line_f.measure,
    "g": line_g.measure,
    "h": line_h.measure,
}
_NAMED = {**_LINES, "soak": soak.measure}


def main() -> int:
    """Measure the chosen lines and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("lines", nargs="*", metavar="a-h, soak", help="what to measure; a to h without one")
    parser.add_argument("--quick", action="store_true", help="one short pair of each, while developing")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the soak lasts")
    parser.add_argument("--dir", type=pathlib.Path, help="where databases and logs go; must be a real disk")
    chosen = parser.parse_args()
    if unknown := set(chosen.lines) - set(_NAMED):
        parser.error(f"there is no line {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="nanohook-bench-", dir=chosen.dir) as folder:
        run = Run(
            folder=pathlib.Path(folder),
            pairs=1 if chosen.quick else 5,
            is_quick=chosen.quick,
            minutes=chosen.minutes,
        )
        for name in sorted(set(chosen.lines)) or _LINES:
            try:
                _NAMED[name](run)
            except Exception as exc:  # noqa: BLE001 - the other lines are worth their figures
                traceback.print_exc()
                run.check(False, f"{name} was not measured to its end: {exc!r}")
            gc.collect()
    run.print_table()
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
