"""Write the tables of the benches to docs/measurements.md, each between two comments."""

from __future__ import annotations

from pathlib import Path

MEASUREMENTS = Path(__file__).resolve().parent.parent / "docs" / "measurements.md"


def write(bench: str, table: str) -> None:
    """Replace the table of `tests/bench/BENCH` in the document. `table` must end with a newline."""
    begin = f"<!-- {bench}: made by tests/bench/{bench} -->\n"
    before, rest = MEASUREMENTS.read_text("utf-8").split(begin)
    end = f"<!-- {bench}: end -->"
    MEASUREMENTS.write_text(before + begin + table + end + rest.split(end)[1], "utf-8")
