"""What the command line knows of a command: its settings, the function that does the work, and the result in words."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

Show = Callable[[dict[str, Any]], Sequence[str]]


COLUMNS = 100
"""Of a terminal that every table fits into."""


def terminal_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, widths: Sequence[int | None]) -> list[str]:
    """Columns with numbers on the right, the first one with names; words wider than their column are folded."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False, show_edge=False)
    for place, (name, width) in enumerate(zip(head, widths, strict=True)):
        table.add_column(name, justify="right" if place else "left", overflow="fold", max_width=width)
    for row in rows:
        table.add_row(*row)
    console = Console(width=COLUMNS, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


@dataclass(frozen=True, kw_only=True)
class Command:
    """`otherview WORDS [flags]`: flags become `settings`, whose fields are the parameters of `work`."""

    words: str
    what: str
    """In one line, for the overview."""
    settings: type
    work: str
    """'otherview.evaluation.knn:knn': imported when it is called, so that --help stays quick."""
    show: Show
    """The result as lines for a person."""
    recipe: str | None = None
    """For a command with a config: the recipe that it starts from by default; None: the command chooses what is not given."""

    @property
    def config(self) -> type[BaseModel] | None:
        """The class of the config that the flags change, where the command has one."""
        if "config" not in {field.name for field in fields(self.settings)}:
            return None
        return get_args(get_type_hints(self.settings, include_extras=True)["config"])[0]

    def run(self, settings: Any) -> dict[str, Any]:
        """Call the function with the settings' fields; the result as one JSON object."""
        module, _, name = self.work.partition(":")
        function = getattr(importlib.import_module(module), name)
        result = function(**{field.name: getattr(settings, field.name) for field in fields(settings)})
        return result if isinstance(result, dict) else result.as_json()
