"""Pictures of what an encoder makes of images: neighbours, components, matching patches, attention; each with its legend."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from otherview.geometry import Crop, PatchGrid, place
from otherview.report.pictures import SMALL, TEXT, dot, legend, marked, panel
from otherview.views.view import ViewPair


class Shown(NamedTuple):
    """An image with the words above it."""

    pixels: np.ndarray
    words: str = ""


LEAST_ATTENTION = 0.25
"""In multiples of the uniform value: at and below it a patch is black."""
LONGEST = 16
"""Characters of a name that fit above a panel; of longer ones the end is shown."""


def shortened(name: str) -> str:
    """The end of a name, where it is too long."""
    last = name.rsplit("/", 1)[-1]
    return last if len(last) <= LONGEST else f"…{last[1 - LONGEST :]}"


def draw_neighbours(queries: Sequence[Shown], rows: Sequence[tuple[str, Sequence[Sequence[Shown]]]]) -> Figure:
    """For every query its nearest images under several encoders: `rows` holds (name, neighbours of each query)."""
    count, lines = len(rows[0][1][0]), len(queries) * len(rows)
    figure, grid = plt.subplots(
        lines, count + 1, figsize=(1.45 * (count + 1), 1.75 * lines + 0.4), squeeze=False, layout="constrained"
    )
    for which, query in enumerate(queries):
        for line, (name, neighbours) in enumerate(rows):
            axes = grid[which * len(rows) + line]
            panel(axes[0], query.pixels, query.words)
            axes[0].set_ylabel(name, fontsize=TEXT)
            for beside, found in zip(axes[1:], neighbours[which], strict=True):
                panel(beside, found.pixels, found.words)
    figure.supxlabel(
        "left: the image asked about; then the most similar ones, with their cosine similarity", fontsize=TEXT
    )
    return figure


def draw_components(images: Sequence[np.ndarray], colours: Mapping[str, np.ndarray]) -> Figure:
    """A column per image: itself, then its patches under each encoder; `colours` has [images, rows, columns, 3] by name."""
    figure, axes = plt.subplots(
        1 + len(colours), len(images), figsize=(1.5 * len(images), 1.6 * (1 + len(colours)) + 0.4), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, image in zip(axes[0], images, strict=True):
        panel(axis, image, "")
    for row, (name, pictures) in zip(axes[1:], colours.items(), strict=True):
        for axis, picture in zip(row, pictures, strict=True):
            panel(axis, picture, "")
        row[0].set_ylabel(name, fontsize=TEXT)
    axes[0][0].set_ylabel("image", fontsize=TEXT)
    names = ("red", "first component"), ("lime", "second"), ("blue", "third")
    legend(figure, [(Patch(color=colour), words) for colour, words in names])
    return figure


def draw_matches(
    pair: ViewPair, predicted: np.ndarray, right: np.ndarray, shown: np.ndarray, grid: PatchGrid
) -> Figure:
    """A row per image: patches of the target view; in the online view where each lies (circle), what is most like it (cross).

    `predicted` [images, patches] are patches of the online view; `right` and `shown` say which found their place and which the
    online view shows at all. A line leads from the place to the match: solid where it is right, dashed where it is not.
    """
    count = len(predicted)
    figure, rows = plt.subplots(count, 2, figsize=(8, 4 * count + 0.6), squeeze=False, layout="constrained")
    for index, (left, beside) in enumerate(rows):
        online, target = (view.pixels[index].numpy().transpose(1, 2, 0) for view in pair)
        share = right[index].sum() / max(1, shown[index].sum())
        panel(left, target, "target view")
        panel(beside, online, f"online view: {share:.0%} of shared patches found")
        within, crop = (Crop(*(side[index] for side in view.crop)) for view in pair)  # pyright: ignore[reportIndexIssue]
        row_at, column_at = place(crop, within=within, grid=grid).everywhere
        size = online.shape[0] / grid.rows, online.shape[1] / grid.columns
        for number, (u, v) in enumerate(marked(grid), 1):
            patch = u * grid.columns + v
            if not shown[index][patch]:
                continue
            dot(left, (v + 0.5) * size[1], (u + 0.5) * size[0], number)
            x, y = (float(column_at[u, v]) + 0.5) * size[1], (float(row_at[u, v]) + 0.5) * size[0]
            row, column = divmod(int(predicted[index][patch]), grid.columns)
            end = (column + 0.5) * size[1], (row + 0.5) * size[0]
            stroke = "-" if right[index][patch] else "--"
            for colour, width in (("black", 2.6), ("white", 1.2)):
                beside.plot([x, end[0]], [y, end[1]], stroke, color=colour, linewidth=width)
                beside.plot(*end, "x", color=colour, markersize=6 if colour == "black" else 4, markeredgewidth=width)
            dot(beside, x, y, number)
    _explain_matches(figure)
    return figure


def _explain_matches(figure: Figure) -> None:
    marks = (
        (Line2D([], [], marker="o", linestyle="none", markersize=9, color="black"), "where the patch lies"),
        (
            Line2D([], [], marker="x", linestyle="none", markeredgewidth=2, color="black"),
            "the patch most similar to it",
        ),
        (Line2D([], [], linestyle="-", color="black"), "found its place"),
        (Line2D([], [], linestyle="--", color="black"), "did not"),
    )
    legend(figure, marks, columns=2)


def draw_attention(images: Sequence[np.ndarray], attention: np.ndarray) -> Figure:
    """A row per image: itself, then what cls attends to by head; `attention` is [images, heads, rows, columns].

    Brightness is in multiples of what each patch would get if all got the same, on a logarithmic scale around it.
    """
    heads, patches = attention.shape[1], attention.shape[2] * attention.shape[3]
    figure, axes = plt.subplots(
        len(images),
        1 + heads,
        figsize=(1.5 * (1 + heads) + 0.8, 1.8 * len(images)),
        squeeze=False,
        layout="constrained",
    )
    most = 4.0 ** math.ceil(math.log(max(4.0, float(np.quantile(attention, 0.995)) * patches), 4))
    scale = LogNorm(LEAST_ATTENTION, most, clip=True)
    drawn = None
    for line, (row, image, maps) in enumerate(zip(axes, images, attention, strict=True)):
        panel(row[0], image, "")
        for number, (axis, weights) in enumerate(zip(row[1:], maps, strict=True), start=1):
            drawn = axis.imshow(weights * patches, cmap="gray", interpolation="nearest", norm=scale)
            axis.set_xticks([])
            axis.set_yticks([])
            words = f"head {number}\n" if line == 0 else ""
            axis.set_title(f"{words}up to {weights.max() * patches:.1f}×", fontsize=SMALL)
    assert drawn is not None
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=30, extend="both", ticks=[LEAST_ATTENTION, 1, most])
    bar.set_ticklabels(["¼×", "1× (uniform)", f"{most:.0f}×"], fontsize=SMALL)
    bar.minorticks_off()
    bar.set_label(f"attention, in multiples of the uniform value 1/{patches}", fontsize=SMALL)
    return figure
