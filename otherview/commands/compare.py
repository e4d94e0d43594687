"""`otherview compare`."""

from typing import Any

from otherview.commands.command import Command
from otherview.runs.settings import CompareSettings


def show_comparison(result: dict[str, Any]) -> list[str]:
    """The table as Markdown, and what is to be known of it; or the studies."""
    if "studies" in result:
        return [
            f"{name}\n    {study['question']}: {', '.join(study['rows'])}" for name, study in result["studies"].items()
        ]
    return [*result["markdown"], *result["notes"]]


COMMANDS = (
    Command(
        words="compare", what="several runs in one table; studies that make those runs, and skip what is done",
        settings=CompareSettings, work="otherview.runs.compare:compare", show=show_comparison,
    ),
)  # fmt: skip
