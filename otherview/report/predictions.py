"""What was predicted beside the truth: objects with their boxes and masks, pixels with their classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from otherview.data.image import eight_bits
from otherview.data.objects import IGNORED, Placing, mask_tools, placed, placed_in
from otherview.data.picture import picture_of
from otherview.data.source import Source, behind
from otherview.report.pictures import panel

COLOURS = np.array(plt.get_cmap("tab20").colors)  # pyright: ignore[reportAttributeAccessIssue]
LEAST_SHOWN = 0.3
"""Score of a detection that is drawn."""
MASK_WEIGHT = 0.45


def draw_objects(
    source: Source, indices: np.ndarray, found: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> Figure:
    """A row per image: the truth, and the detections that score enough, with their classes; `names` by category id."""
    figure, axes = plt.subplots(len(indices), 2, figsize=(8, 3.6 * len(indices)), squeeze=False)
    numbers = {kind: place for place, kind in enumerate(names)}
    there = behind(source, int(indices[0]))[0]
    assert isinstance(there, Placing)
    ids = [kind.id for kind in there.categories]  # the test images may have fewer categories than were learned
    for (left, right), index in zip(axes, indices.tolist(), strict=True):
        pixels = picture_of(source, index).decode()
        objects, image = placed(source, index), placed_in(source, index)
        truth = [
            (box, numbers[ids[kind]], names[ids[kind]], mask)
            for box, kind, mask in zip(objects.boxes, objects.classes.tolist(), objects.masks, strict=True)
        ]
        shown = [one for one in found if one["image_id"] == image and one["score"] >= LEAST_SHOWN]
        guesses = [
            (_corners(one["bbox"]), numbers[one["category_id"]], _words(one, names), _mask(one))
            for one in sorted(shown, key=lambda one: one["score"])
        ]
        _objects(left, pixels, truth, f"{source.name(index)}: truth")
        _objects(right, pixels, guesses, f"predicted, from a score of {LEAST_SHOWN}")
    figure.tight_layout()
    return figure


def draw_found(source: Source, index: int, found: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> Figure:
    """One image with the detections that score enough; `names` by category id."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    numbers = {kind: place for place, kind in enumerate(names)}
    shown = sorted((one for one in found if one["score"] >= LEAST_SHOWN), key=lambda one: one["score"])
    objects = [(_corners(one["bbox"]), numbers[one["category_id"]], _words(one, names), _mask(one)) for one in shown]
    title = f"{source.name(index)}: {len(shown)} of {len(found)} detections, from a score of {LEAST_SHOWN}"
    _objects(axes, picture_of(source, index).decode(), objects, title)
    plt.close(figure)
    return figure


def _words(one: Mapping[str, Any], names: Mapping[int, str]) -> str:
    return f"{names[one['category_id']]} {one['score']:.2f}"


def _corners(box: Sequence[float]) -> np.ndarray:
    return np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])


def _mask(one: Mapping[str, Any]) -> np.ndarray:
    return mask_tools().decode(one["segmentation"])


def _objects(
    axes: Axes, pixels: np.ndarray, objects: Sequence[tuple[np.ndarray, int, str, np.ndarray]], title: str
) -> None:
    shown = eight_bits(pixels).astype(np.float32) / 255
    for _, kind, _, mask in objects:
        inside = mask.astype(bool)
        shown[inside] = (1 - MASK_WEIGHT) * shown[inside] + MASK_WEIGHT * COLOURS[kind % len(COLOURS)]
    panel(axes, shown, title)
    for (left, top, right, bottom), kind, name, _ in objects:
        for colour, width in (("black", 2.2), (COLOURS[kind % len(COLOURS)], 1.0)):
            axes.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width)
            )
        style = {"facecolor": "black", "pad": 0.6, "linewidth": 0, "alpha": 0.7}
        axes.text(
            left,
            top,
            name,
            ha="left",
            va="bottom",
            color="white",
            fontsize=5,
            bbox=style,
            clip_on=True,
            parse_math=False,
        )


def draw_pixels(
    images: Sequence[tuple[str, np.ndarray, np.ndarray | None, np.ndarray]], names: Sequence[str]
) -> Figure:
    """A row per image: itself, the truth where it is known, and the prediction.

    Each is (name, pixels [H, W, C], truth [H, W] or None, prediction [H, W]); all have a truth, or none.
    """
    columns = ("truth", "predicted") if images[0][2] is not None else ("predicted",)
    width = 1 + len(columns)
    figure, axes = plt.subplots(len(images), width, figsize=(3 * width, 3.2 * len(images)), squeeze=False)
    for row, (name, pixels, truth, predicted) in zip(axes, images, strict=True):
        panel(row[0], pixels, name)
        known = [one for one in (truth, predicted) if one is not None]
        for place, labels, title in zip(row[1:], known, columns, strict=True):
            colours = COLOURS[labels.astype(int) % len(COLOURS)]
            colours[labels == IGNORED] = 1.0
            panel(place, colours, title)
    present = sorted(
        {
            int(kind)
            for _, _, truth, predicted in images
            for part in (truth, predicted)
            if part is not None
            for kind in np.unique(part)
        }
    )
    marks = [Rectangle((0, 0), 1, 1, color=COLOURS[kind % len(COLOURS)]) for kind in present if kind != IGNORED]
    words = [names[kind] if kind < len(names) else str(kind) for kind in present if kind != IGNORED]
    figure.legend(marks, words, loc="lower center", ncol=min(6, max(1, len(words))), fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.12 / max(1, len(images)) + 0.02, 1, 1))
    return figure
