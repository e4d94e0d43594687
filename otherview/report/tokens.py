"""Pictures of what an encoder makes of images: principal components of its patches as colours, the attention of its heads."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from otherview.geometry import Crop, PatchGrid, place
from otherview.report.pictures import dot, marked, panel
from otherview.views.view import ViewPair


def draw_components(images: Sequence[np.ndarray], colours: Mapping[str, np.ndarray]) -> Figure:
    """A column per image: itself, then its patches under each encoder; `colours` has [images, rows, columns, 3] by name."""
    figure, axes = plt.subplots(
        1 + len(colours), len(images), figsize=(1.5 * len(images), 1.7 * (1 + len(colours))), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, image in zip(axes[0], images, strict=True):
        panel(axis, image, "")
    for row, (name, pictures) in zip(axes[1:], colours.items(), strict=True):
        for axis, picture in zip(row, pictures, strict=True):
            panel(axis, picture, "")
        row[0].set_ylabel(name, fontsize=8)
    axes[0][0].set_ylabel("image", fontsize=8)
    return figure


def draw_matches(
    pair: ViewPair, predicted: np.ndarray, right: np.ndarray, shown: np.ndarray, grid: PatchGrid
) -> Figure:
    """A row per image: patches of the target view; in the online view where each lies (circle), what is most like it (cross).

    `predicted` [images, patches] are patches of the online view; `right` and `shown` say which found their place and which the
    online view shows at all. A line leads from the place to the match: solid where it is right, dotted where it is not.
    """
    count = len(predicted)
    figure, rows = plt.subplots(count, 2, figsize=(7, 3.6 * count), squeeze=False, layout="constrained")
    for index, (left, beside) in enumerate(rows):
        online, target = (view.pixels[index].numpy().transpose(1, 2, 0) for view in pair)
        share = right[index].sum() / max(1, shown[index].sum())
        panel(left, target, "the target view")
        panel(beside, online, f"the online view: {share:.0%} of the patches that both show are found")
        within, crop = (Crop(*(side[index] for side in view.crop)) for view in pair)  # pyright: ignore[reportIndexIssue]
        placed = place(crop, within=within, grid=grid)
        size = online.shape[0] / grid.rows, online.shape[1] / grid.columns
        for number, (u, v) in enumerate(marked(grid), 1):
            patch = u * grid.columns + v
            if not shown[index][patch]:
                continue
            dot(left, (v + 0.5) * size[1], (u + 0.5) * size[0], number)
            x, y = (float(placed.columns[v]) + 0.5) * size[1], (float(placed.rows[u]) + 0.5) * size[0]
            row, column = divmod(int(predicted[index][patch]), grid.columns)
            end = (column + 0.5) * size[1], (row + 0.5) * size[0]
            stroke = "-" if right[index][patch] else ":"
            for colour, width in (("black", 2.6), ("white", 1.2)):
                beside.plot([x, end[0]], [y, end[1]], stroke, color=colour, linewidth=width)
                beside.plot(*end, "x", color=colour, markersize=6 if colour == "black" else 4, markeredgewidth=width)
            dot(beside, x, y, number)
    return figure


def draw_attention(images: Sequence[np.ndarray], attention: np.ndarray) -> Figure:
    """A row per image: itself, then what cls attends to by head; `attention` is [images, heads, rows, columns]."""
    heads = attention.shape[1]
    figure, axes = plt.subplots(
        len(images), 1 + heads, figsize=(1.5 * (1 + heads), 1.6 * len(images)), squeeze=False, layout="constrained"
    )
    for line, (row, image, maps) in enumerate(zip(axes, images, attention, strict=True)):
        panel(row[0], image, "")
        for number, (axis, weights) in enumerate(zip(row[1:], maps, strict=True), start=1):
            axis.imshow(weights, cmap="gray", interpolation="nearest", vmin=0)
            axis.set_xticks([])
            axis.set_yticks([])
            words = f"head {number}, " if line == 0 else ""
            axis.set_title(f"{words}up to {weights.max():.3f}", fontsize=7)
    return figure
