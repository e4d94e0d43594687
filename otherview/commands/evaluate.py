"""`otherview evaluate …`: scores beside their controls, one a line."""

from collections.abc import Sequence
from typing import Any

from otherview.commands.command import Command, terminal_table
from otherview.dense.settings import DetectSettings, SegmentSettings
from otherview.evaluation.settings import (
    FewShotSettings,
    FinetuneSettings,
    KnnSettings,
    LinearProbeSettings,
    LinearSegmentSettings,
    LinearSettings,
    RetrievalSettings,
    RobustnessSettings,
)

LONGEST_NAME = 30
FITS = {"crop": "the centre of each image", "squash": "whole images, stretched", "pad": "whole images, framed"}


def show_scores(result: dict[str, Any]) -> list[str]:
    """Scores and controls, one a line; a table that can be pasted."""
    rows = [*result["scores"], *result["control"]]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}  {row['value']:.4f} ± {row['spread']:.4f}  (n = {row['n']})" for row in rows]
    shown = [f"{'×'.join(map(str, result['size']))} px, {FITS[result['fit']]}"] if "fit" in result else []
    learned = [f"{result['train_images']:,} training images"] if "train_images" in result else []
    config = [f"config {result['config_hash']}"] if "config_hash" in result else []
    said = [result["conclusion"]["sentence"]] if "conclusion" in result else []
    lines += class_table(result.get("per_class", ()))
    return [*lines, " · ".join([*shown, *learned, f"{result['seconds']:.0f} s", *config]), *said]


MOST_CLASSES = 20
"""Of more, the table lies in a file only."""


def class_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for every class, intervals left out, in at most 100 columns."""
    if not 0 < len(rows) <= MOST_CLASSES:
        return []
    columns = [name for name in rows[0] if not name.endswith("_interval")]

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    cells = [[cell(row.get(name)) for name in columns] for row in rows]
    return ["", *terminal_table(columns, cells, widths=[LONGEST_NAME, *[None] * (len(columns) - 1)]), ""]


def show_robustness(result: dict[str, Any]) -> list[str]:
    """The scores, and whether they can be compared with published ones."""
    lines = show_scores(result)
    if result["corruptions"] and not result["comparable_with_published"]:
        lines.append("corruptions were made in memory: not comparable with results on the published files")
    return lines


def _protocol(name: str, what: str, settings: type, work: str, **more: Any) -> Command:
    show = more.pop("show", show_scores)
    return Command(words=f"evaluate {name}", what=what, settings=settings, work=f"otherview.{work}", show=show, **more)


COMMANDS = (
    _protocol("knn", "weighted nearest neighbours on frozen features", KnnSettings, "evaluation.knn:knn"),
    _protocol("linear", "logistic regression on frozen features", LinearSettings, "evaluation.linear:linear"),
    _protocol(
        "linear-probe", "the paper's linear probe: augmented, LARS, several rates in one pass", LinearProbeSettings,
        "evaluation.linear_probe:linear_probe",
    ),
    _protocol(
        "finetune", "the whole encoder learns the classes, by the paper's recipe", FinetuneSettings,
        "evaluation.finetune:finetune",
    ),
    _protocol(
        "few-shot", "logistic regression on the features of a few labelled images", FewShotSettings,
        "evaluation.few_shot:few_shot",
    ),
    _protocol(
        "robustness", "a fine-tuned classifier on corrupted and foreign images", RobustnessSettings,
        "evaluation.robustness:robustness", show=show_robustness,
    ),
    _protocol(
        "detect", "boxes and masks of objects: ViTDet with Mask R-CNN, box and mask AP", DetectSettings,
        "dense.detection:detect",
    ),
    _protocol(
        "segment", "the class of every pixel: UPerNet on the whole encoder, mIoU", SegmentSettings,
        "dense.segmentation:segment",
    ),
    _protocol(
        "linear-segment", "a linear head on frozen patch tokens names every pixel", LinearSegmentSettings,
        "evaluation.linear_segment:linear_segment",
    ),
    _protocol(
        "retrieval", "do patches of one view find their place in another", RetrievalSettings,
        "evaluation.retrieval:retrieval",
    ),
)  # fmt: skip
