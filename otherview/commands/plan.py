"""`otherview plan`."""

from typing import Any

from otherview.commands.command import Command, terminal_table
from otherview.runs.settings import PlanSettings

MEASURES = {"retrieval": "patch retrieval"}
"""What scores are called; others are kNN."""


def show_plan(result: dict[str, Any]) -> list[str]:
    """The runs in a table, and what more would bring."""
    measure, runs = MEASURES.get(result["score"], "kNN"), result["runs"]
    rows = [[f"{run['images']:,}", f"{run['steps']:,}", f"{run['score']:.3f} ± {run['error']:.3f}"] for run in runs]
    told = [_forecast(one, runs[-1]) for one in result["forecasts"]]
    untold = f"cannot be told: the longest run is {result['learned']}; {result['remedy']}"
    return [
        f"{measure} on {result['judged_on']:,} images held out; before training {result['before']:.3f}",
        *terminal_table(["images", "steps", "score"], rows, widths=[None, None, None]),
        *(told or [untold]),
    ]


def _forecast(one: dict[str, Any], longest: dict[str, Any]) -> str:
    """'ten times the steps: 0.46 to 0.58, more than the 0.41 of the longest run here'."""
    head, now = f"ten times the {one['more']}: ", longest["score"]
    if not one["tells"]:
        return f"{head}cannot be told (between {one['low']:.2f} and {one['high']:.2f}): more time for the runs would narrow it"
    beside = "more than" if one["low"] > now else "less than" if one["high"] < now else "perhaps no more than"
    return f"{head}{one['low']:.2f} to {one['high']:.2f}, {beside} the {now:.2f} of the longest run here"


COMMANDS = (
    Command(
        words="plan", what="what ten times the images or the time would bring, judged by seven short runs",
        settings=PlanSettings, work="otherview.runs.plan:plan", show=show_plan,
    ),
)  # fmt: skip
