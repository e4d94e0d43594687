"""`otherview pretrain` and `otherview demo`."""

from typing import Any

from otherview.commands.command import Command
from otherview.runs.settings import DemoSettings, PretrainSettings


def show_summary(result: dict[str, Any]) -> list[str]:
    """One line a name; a name without a value is left out."""
    lines: list[str] = []
    for name, value in result.items():
        many = value if isinstance(value, list) else [value]
        lines += [f"{name} {one}" for one in many if one not in (None, "")]
    return lines


def show_demo(result: dict[str, Any]) -> list[str]:
    """The three scores, the report and the time."""
    knn = result["knn"]
    return [
        "kNN accuracy on 2,000 images never seen (8 classes):",
        f"  trained    {knn['trained']:.1%}",
        f"  untrained  {knn['untrained']:.1%}",
        f"  raw pixels {knn['pixels']:.1%}",
        result["verdict"],
        f"report: {result['report']}",
        f"{result['seconds']:.0f} s",
    ]


COMMANDS = (
    Command(
        words="demo", what="pre-train, evaluate and report on built-in images, in minutes, with no network",
        settings=DemoSettings, work="otherview.runs.demo:demo", show=show_demo,
    ),
    Command(
        words="pretrain", what="pre-train an encoder on your images; the same command continues",
        settings=PretrainSettings, work="otherview.runs.pretrain:pretrain", show=show_summary,
    ),
)  # fmt: skip
