"""`otherview predict`: what was fitted, on new images."""

from typing import Any

from otherview.commands.command import Command
from otherview.runs.settings import PredictSettings


def show_predictions(result: dict[str, Any]) -> list[str]:
    """Where it is, and what was found."""
    left = f", {result['left_out']} could not be read" if result["left_out"] else ""
    lines = [f"{result['out']}: {result['images']:,} images{left}, {result['seconds']:.0f} s"]
    if "classes" in result:
        most = sorted(result["classes"].items(), key=lambda one: -one[1])
        lines.append(", ".join(f"{name} {count:,}" for name, count in most[:10]) + (" …" if len(most) > 10 else ""))
    if "detections" in result:
        lines.append(f"{result['detections']:,} detections in predictions.json, in COCO's form; pictures lie beside it")
    if result["kind"] == "segmenter":
        lines.append("a picture of classes for every image lies in classes/; classes.json names the levels")
    return lines


COMMANDS = (
    Command(
        words="predict", what="what was fitted, on new images: classes, boxes and masks, or pixels",
        settings=PredictSettings, work="otherview.runs.predict:predict", show=show_predictions,
    ),
)  # fmt: skip
