"""Many edits in one GIMP: the memory, files and processes that are held must not grow.

The tests make a few edits, `tests/bench/soak` makes many.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from installer.private.host import PrivateGimp
from tests.gimp.run_inside import run_inside

MODES = ("procedure", "window")

Row = dict[str, Any]
HELD: dict[str, tuple[Callable[[Row], float], float]] = {
    "GIMP, MB": (lambda row: row["GIMP"]["kB"] / 1000, 3),
    "its files": (lambda row: row["GIMP"]["files"], 1),
    "its threads": (lambda row: row["GIMP"]["threads"], 2),
    "script, MB": (lambda row: row["script"]["kB"] / 1000, 2),
    "its open files": (lambda row: row["script"]["files"], 1),
    "threads there": (lambda row: row["script"]["threads"], 2),
    "processes": (lambda row: row["processes"], 0),
    "temporary files": (lambda row: row["temporary files"], 1),
    "unfinished files": (lambda row: row["hidden files"], 0),
    # The time may grow, because the machine may have other things to do. It is only shown.
    "seconds per edit": (lambda row: row["seconds"], math.inf),
}
"""What is measured: the function that reads it from a row, and how much it may grow beyond 5 %."""


def run(
    gimp: PrivateGimp,
    folder: Path,
    photographs: Path,
    base_url: str,
    mode: str,
    number: int,
    every: int,
) -> list[Row]:
    """Make `number` edits, and return what was held after each `every` of them."""
    access = {"DIMILINKS_BASE_URL": base_url, "DIMILINKS_API_KEY": "test-key"}
    rows: list[Row] = run_inside(
        gimp,
        folder,
        photographs,
        "soak",
        *(mode, str(number), str(every)),
        **access,
    )
    return rows


def judge(rows: list[Row]) -> list[str]:
    """Return what has grown from the middle third of the rows to the last one, in words."""
    third = len(rows) // 3
    wrong = []
    for name, (value, more) in HELD.items():
        middle, last = (
            statistics.median(value(row) for row in rows[start:end])
            for start, end in ((third, len(rows) - third), (len(rows) - third, None))
        )
        if last > 1.05 * middle + more:
            wrong.append(f"{name}: {middle:.1f}, then {last:.1f}")
    if strays := [row for row in rows if row["jobs"] != row["edits"]]:
        wrong.append(f"{strays[0]['jobs']} jobs of {strays[0]['edits']} edits")
    return wrong


def table(rows: list[Row]) -> str:
    lines = ["| edits | " + " | ".join(HELD) + " | jobs |", "|---" * (len(HELD) + 2) + "|"]
    for row in rows:
        values = [f"{value(row):.2f}".rstrip("0").rstrip(".") for value, _more in HELD.values()]
        lines.append(f"| {row['edits']} | {' | '.join(values)} | {row['jobs']} |")
    return "\n".join(lines) + "\n"
