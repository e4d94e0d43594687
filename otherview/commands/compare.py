"""`otherview compare`."""

from collections.abc import Sequence
from typing import Any

from otherview.commands.command import Command
from otherview.runs.settings import CompareSettings

COLUMNS = 100
"""Of a terminal that every table fits into."""
NAME = 20
"""Characters of a column's name before it is folded."""


def show_comparison(result: dict[str, Any]) -> list[str]:
    """The verdict, the table and what is to be known of it; or the studies."""
    if "studies" in result:
        return [
            f"{name}\n    {study['question']}: {', '.join(study['rows'])}" for name, study in result["studies"].items()
        ]
    table = result["markdown"] if result["as_markdown"] else narrow(result["markdown"])
    return [result["verdict"], *table, *result["notes"]]


def narrow(markdown: Sequence[str]) -> list[str]:
    """A Markdown table turned round: a line for every measure, a column for every row, as many beside each other as fit."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in markdown)
    first = max(map(len, head))
    lines: list[str] = []
    while rows:
        count, width = 0, first
        while count < len(rows) and (count == 0 or width + 2 + _width(rows[count]) <= COLUMNS):
            width += 2 + _width(rows[count])
            count += 1
        some, rows = rows[:count], rows[count:]
        lines += _table(head, some)
    return lines


def _width(row: Sequence[str]) -> int:
    """Of a column: its longest value, or its name, which may be folded."""
    return max(max(map(len, row[1:])), min(NAME, len(row[0])))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    table.add_column(head[0])
    for row in rows:
        table.add_column(row[0], justify="right", overflow="fold", max_width=_width(row))
    for number, measure in enumerate(head[1:], start=1):
        if any(row[number] for row in rows):
            table.add_row(measure, *(row[number] for row in rows))
    console = Console(width=COLUMNS, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


COMMANDS = (
    Command(
        words="compare", what="several runs in one table; studies that make those runs, and skip what is done",
        settings=CompareSettings, work="otherview.runs.compare:compare", show=show_comparison,
    ),
)  # fmt: skip
