"""`otherview doctor`."""

import math
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
        *_classes(result["classes"]),
        *(f"labels  {line}" for line in result["annotated"]),
        "kinds   " + ", ".join(f"{kind} {count:,}" for kind, count in result["kinds"].items()),
        f"height  {height['least']} to {height['largest']} px, median {height['median']}",
        f"width   {width['least']} to {width['largest']} px, median {width['median']}",
        *levels_of(result["levels"]),
        f"mean    {' '.join(f'{value:.4f}' for value in result['mean'])}",
        f"std     {' '.join(f'{value:.4f}' for value in result['std'])}",
    ]
    if result["command"] is None:
        return [*lines, "too few images can be read, so there is nothing to suggest"]
    pace = result["seconds_per_epoch"]
    if pace is None:
        fitting = [f"no run can be suggested: {result['not_measured']}"]
    else:
        reasons = [*result["chosen"], f"an epoch takes about {pace:,.0f} s here"]
        fitting = ["what fits images and machine:", *(f"  {line}" for line in reasons)]
    return [
        *lines,
        f"good images  {result['good']}  (a SPEC: give it to --data)",
        f"views        {result['picture'] or result['not_drawn']}",
        *fitting,
        f"try  {result['command']}",
    ]


SHOWN = 8


def _classes(counts: dict[str, int]) -> list[str]:
    """How many images each class has; nothing where there are no labels."""
    if not counts:
        return []
    named = {name: count for name, count in counts.items() if name}
    words = [f"{name} {count:,}" for name, count in list(named.items())[:SHOWN]]
    more = f" and {len(named) - SHOWN:,} others" if len(named) > SHOWN else ""
    without = f"; {counts['']:,} images have no label" if "" in counts else ""
    return [f"classes {len(named):,}: {', '.join(words)}{more}{without}"]


BARS = " ▁▂▃▄▅▆▇█"


def levels_of(kinds: dict[str, dict[str, Any]]) -> list[str]:
    """By kind of file: the histogram of its levels from black to white, what its values are and how they are read."""
    lines = []
    for kind, found in kinds.items():
        most = max(found["histogram"]) or 1
        bars = "".join(BARS[math.ceil(share / most * (len(BARS) - 1))] for share in found["histogram"])
        low, high = found["values"]
        of = f" of {found['type'][1]:g}" if found["type"] and high < found["type"][1] else ""
        ranges = found["read_as"]
        as_read = ranges if isinstance(ranges, str) else " or ".join(f"{low:g} … {high:g}" for low, high in ranges)
        lines.append(
            f"levels  {bars}  {kind}: values {low:g} … {high:g}{of}, read as {as_read}, std {found['std']:.3f}"
        )
        if not isinstance(ranges, str) and len(ranges) > 1:
            lines.append(f"  {kind} has images of several depths; if one device took them all, give --levels type")
        if found["hardly_used"]:
            lines.append(
                f"  {kind} hardly uses the range from black to white: try --levels percentile 1 99, or LOW HIGH"
            )
    return lines


COMMANDS = (
    Command(
        words="doctor", what="what is in this data, what is broken, what run fits, how long it will take",
        settings=DoctorSettings, work="otherview.runs.suggestion:doctor", show=show_findings,
    ),
)  # fmt: skip
