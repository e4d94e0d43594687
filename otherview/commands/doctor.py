"""`otherview doctor`."""

from typing import Any

from otherview.commands.command import Command
from otherview.runs.settings import DoctorSettings


def show_findings(result: dict[str, Any]) -> list[str]:
    """What a person wants to know, the worst first."""
    height, width = (result["sizes"][side] for side in ("height", "width"))
    lines = [
        f"{result['images']:,} images, {result['unreadable']:,} unreadable, {result['duplicates']:,} duplicates",
        *(f"  broken  {fault}" for fault in result["faults"]),
        *(f"  again   {pair}" for pair in result["repeated"]),
        *(f"beside  {line}" for line in result["beside"]),
        "kinds   " + ", ".join(f"{kind} {count:,}" for kind, count in result["kinds"].items()),
        f"height  {height['least']} to {height['largest']} px, median {height['median']}",
        f"width   {width['least']} to {width['largest']} px, median {width['median']}",
        f"mean    {' '.join(f'{value:.4f}' for value in result['mean'])}",
        f"std     {' '.join(f'{value:.4f}' for value in result['std'])}",
    ]
    if result["command"] is None:
        return [*lines, "too few images can be read, so there is nothing to suggest"]
    pace = result["seconds_per_epoch"]
    return [
        *lines,
        f"good images  {result['good']}  (a SPEC: give it to --data)",
        f"views        {result['picture'] or result['not_drawn']}",
        f"an epoch of {result['recipe']} "
        + (f"could not be timed: {result['not_measured']}" if pace is None else f"takes about {pace:,.0f} s here"),
        f"try  {result['command']}",
    ]


COMMANDS = (
    Command(
        words="doctor", what="what is in this data, what is broken, what run fits, how long it will take",
        settings=DoctorSettings, work="otherview.runs.suggestion:doctor", show=show_findings,
    ),
)  # fmt: skip
