"""`otherview compare`."""

from collections.abc import Sequence
from typing import Any

from otherview.commands.command import COLUMNS, Command, terminal_table
from otherview.runs.settings import CompareSettings

NAME = 20
"""Characters of a column's name before it is folded."""


def show_comparison(result: dict[str, Any]) -> list[str]:
    """The verdict, the table and what is to be known of it; or the studies."""
    if "studies" in result:
        return [
            f"{name}\n    {study['question']}: {', '.join(study['rows'])}" for name, study in result["studies"].items()
        ]
    table = result["markdown"] if result["as_markdown"] else narrow(result["table"])
    return [result["verdict"], *table, *result["notes"]]


def narrow(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table turned round: a line for every measure, a column for every row, as many beside each other as fit."""
    head, *rows = cells
    first = max(map(len, head))
    lines: list[str] = []
    while rows:
        count, width = 0, first
        while count < len(rows) and (count == 0 or width + 2 + _width(rows[count]) <= COLUMNS):
            width += 2 + _width(rows[count])
            count += 1
        some, rows = rows[:count], rows[count:]
        measures = [line for line in zip(head, *some, strict=True) if any(line[1:])]
        lines += terminal_table([head[0], *(row[0] for row in some)], measures[1:], widths=[first, *map(_width, some)])
    return lines


def _width(row: Sequence[str]) -> int:
    """Of a column: its longest value, or its name, which may be folded."""
    return max(max(map(len, row[1:])), min(NAME, len(row[0])))


COMMANDS = (
    Command(
        words="compare", what="several runs in one table; studies that make those runs, and skip what is done",
        settings=CompareSettings, work="otherview.runs.compare:compare", show=show_comparison,
    ),
)  # fmt: skip
