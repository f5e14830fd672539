"""What was measured, and the table at the end."""

import pathlib
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    line: str
    figure: str
    yardstick: str
    ratio: str
    need: str
    is_met: bool | None
    """``None``: for information, nothing is needed of it."""


@dataclass(kw_only=True)
class Run:
    """How to measure, and what has been measured so far."""

    folder: pathlib.Path
    pairs: int
    is_quick: bool
    minutes: float
    """How long the soak lasts."""
    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Show progress."""
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", file=sys.stderr, flush=True)

    def check(self, is_right: bool, text: str) -> None:  # noqa: FBT001 - reads as an assertion
        """Remember what was lost or wrong: it makes the run fail, a slow figure does not."""
        if not is_right:
            self.wrong.append(text)
            self.say(f"WRONG: {text}")

    def add(
        self,
        line: str,
        figure: str,
        *,
        yardstick: str = "",
        ratio: str = "",
        need: str = "",
        is_met: bool | None = None,
    ) -> None:
        """Add a row to the table."""
        row = Row(line=line, figure=figure, yardstick=yardstick, ratio=ratio, need=need, is_met=is_met)
        self.rows.append(row)
        self.say(" | ".join(part for part in (row.line, row.figure, row.yardstick, row.ratio) if part))

    def print_table(self) -> None:
        """Print everything that was measured."""
        head = ("line", "figure", "yardstick", "ratio", "need", "")
        verdicts = {None: "", True: "ok", False: "SHORT"}
        table = [
            head,
            *(
                (row.line, row.figure, row.yardstick, row.ratio, row.need, verdicts[row.is_met])
                for row in self.rows
            ),
        ]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(head))]
        for cells in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        for text in self.wrong:
            print(f"WRONG: {text}")


def median(values: Sequence[float]) -> float:
    """The middle of *values*."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that *percent* of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
