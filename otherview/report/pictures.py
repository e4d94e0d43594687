"""Pictures of views, masks and correspondence, and of what an encoder makes of images: components and attention.

One fixed style, readable without colour: outlines are drawn twice, dark under light.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from otherview.data.image import Image, eight_bits
from otherview.geometry import Crop, PatchGrid, place
from otherview.views.device_colour import coloured_alone
from otherview.views.view import View, ViewPair

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MASKED_SHADE = 0.25
"""Masked patches keep this share of their brightness."""


def pixels_of(view: View) -> np.ndarray:
    """uint8 [H, W, 3] of one view, its colours done."""
    return coloured_alone(view).numpy().transpose(1, 2, 0)


def shaded(view: View, grid: PatchGrid) -> np.ndarray:
    """The view with masked patches darkened."""
    pixels = pixels_of(view).astype(np.float32)
    masked = view.masked.numpy().reshape(-1, *grid)[0]  # of several masks, the first
    size = pixels.shape[0] // grid.rows, pixels.shape[1] // grid.columns
    return (pixels * np.where(np.kron(masked, np.ones(size)), MASKED_SHADE, 1)[..., None]).astype(np.uint8)


def panel(axes: Axes, pixels: np.ndarray, title: str) -> None:
    """An image whose axes count pixels from its upper left edge, as crops and places do; of many channels, three."""
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].repeat(3, axis=2)
    axes.imshow(eight_bits(pixels), interpolation="nearest", extent=(0, pixels.shape[1], pixels.shape[0], 0))
    axes.autoscale(False)
    axes.set_title(title, fontsize=8, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])


def _outline(axes: Axes, crop: Crop, label: str, *, above: bool) -> None:
    """The crop's rectangle; its name stands in the upper left or the lower right corner, so that two can be read."""
    left, top, right, bottom = crop.left, crop.top, crop.left + crop.width, crop.top + crop.height
    for colour, width in (("black", 2.4), ("white", 1.0)):
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, linewidth=width)  # pyright: ignore[reportArgumentType]
    x, y, ha, va = (left, top, "left", "top") if above else (right, bottom, "right", "bottom")
    style = {"facecolor": "black", "pad": 1, "linewidth": 0}
    axes.text(float(x), float(y), label, ha=ha, va=va, color="white", fontsize=7, bbox=style)


def _as_said(crop: Crop) -> str:
    turned = f", turned {90 * int(crop.turns)}°" if int(crop.turns) else ""
    return f"{crop.height:.0f}×{crop.width:.0f} px{turned}{', mirrored' if crop.flipped else ''}"


def draw_views(images: Sequence[Image], pairs: Sequence[ViewPair], grid: PatchGrid) -> Figure:
    """A row per image: the image with both crops, the online view, the online view masked, the target view."""
    figure, rows = plt.subplots(len(images), 4, figsize=(8, 2.1 * len(images)), squeeze=False, layout="constrained")
    for axes, image, pair in zip(rows, images, pairs, strict=True):
        panel(axes[0], image.decode(), f"image {image.height}×{image.width} px")
        _outline(axes[0], pair.online.crop, "online", above=True)
        _outline(axes[0], pair.target.crop, "target", above=False)
        panel(axes[1], pixels_of(pair.online), f"online: {_as_said(pair.online.crop)}")
        panel(axes[2], shaded(pair.online, grid), f"{int(pair.online.masked.sum())} of {grid.patches} patches masked")
        panel(axes[3], pixels_of(pair.target), f"target: {_as_said(pair.target.crop)}")
    return figure


def draw_masks(masks: Sequence[np.ndarray], frequency: np.ndarray, *, count: int) -> Figure:
    """Some masks (dark: masked), and how often each patch was masked over `count` masks."""
    columns = 3
    lines = -(-len(masks) // columns)
    figure = plt.figure(figsize=(9, max(3.6, 1.25 * lines)), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[1.1 * columns, 4.6]))
    for axes, mask in zip(left.subplots(lines, columns, squeeze=False).flat, masks, strict=False):
        panel(axes, np.where(mask, 40, 230).astype(np.uint8)[..., None].repeat(3, axis=2), f"{int(mask.sum())} masked")
    axes = right.subplots()
    shown = axes.imshow(frequency, vmin=0, vmax=1, cmap="gray_r")
    axes.set_title(f"how often each patch is masked, over {count:,} masks", fontsize=9)
    if frequency.size <= 256:
        for (row, column), value in np.ndenumerate(frequency):
            axes.text(
                column,
                row,
                f"{value:.2f}"[1:],
                ha="center",
                va="center",
                fontsize=5,
                color="white" if value > 0.5 else "black",
            )
    axes.set_xticks([])
    axes.set_yticks([])
    right.colorbar(shown, ax=axes, shrink=0.7)
    return figure


def draw_correspondence(pairs: Sequence[ViewPair], grid: PatchGrid) -> Figure:
    """A row per pair: the target view with numbered patches, and where they fall in and around the online view."""
    figure, rows = plt.subplots(len(pairs), 2, figsize=(8, 4 * len(pairs)), squeeze=False, layout="constrained")
    for axes, pair in zip(rows, pairs, strict=True):
        _numbered(axes[0], pair.target, grid)
        _warped(axes[1], pair, grid)
    return figure


def marked(grid: PatchGrid) -> list[tuple[int, int]]:
    """A few patches that are followed from one view to the other."""
    rows = np.linspace(0, grid.rows - 1, 4).round().astype(int)
    columns = np.linspace(0, grid.columns - 1, 4).round().astype(int)
    return [(int(u), int(v)) for u in rows for v in columns]


def _numbered(axes: Axes, view: View, grid: PatchGrid) -> None:
    pixels = pixels_of(view)
    size = pixels.shape[0] / grid.rows, pixels.shape[1] / grid.columns
    panel(axes, pixels, "the target view, to be predicted")
    for number, (u, v) in enumerate(marked(grid), 1):
        dot(axes, (v + 0.5) * size[1], (u + 0.5) * size[0], number)


def dot(axes: Axes, x: float, y: float, number: int) -> None:
    """A number in a circle."""
    axes.text(x, y, str(number), ha="center", va="center", fontsize=7, color="white",
              bbox={"boxstyle": "circle,pad=0.15", "facecolor": "black", "edgecolor": "white", "linewidth": 0.6})  # fmt: skip


def _warped(axes: Axes, pair: ViewPair, grid: PatchGrid) -> None:
    """The target view's patches as outlined cells in the frame of the online view, those outside it included."""
    pixels = shaded(pair.online, grid)
    placement = place(pair.target.crop, within=pair.online.crop, grid=grid)
    size = pixels.shape[0] / grid.rows, pixels.shape[1] / grid.columns
    centres = [((part + 0.5) * side).numpy() for part, side in zip(placement.everywhere, size, strict=True)]
    y, x = (np.unique(part.round(6)) for part in centres)
    half = 0.5 * float(placement.row_scale) * size[0], 0.5 * float(placement.column_scale) * size[1]
    panel(axes, pixels, "the online view, masked, and where those patches fall in it")
    for edge in np.concatenate([[y.min() - half[0]], y + half[0]]):
        axes.plot([x.min() - half[1], x.max() + half[1]], [edge, edge], color="white", linewidth=0.4, alpha=0.8)
    for edge in np.concatenate([[x.min() - half[1]], x + half[1]]):
        axes.plot([edge, edge], [y.min() - half[0], y.max() + half[0]], color="white", linewidth=0.4, alpha=0.8)
    for number, (u, v) in enumerate(marked(grid), 1):
        dot(axes, float(centres[1][u, v]), float(centres[0][u, v]), number)
    axes.set_facecolor("0.6")
    axes.set_xlim(min(0, x.min() - half[1]) - 2, max(pixels.shape[1], x.max() + half[1]) + 2)
    axes.set_ylim(max(pixels.shape[0], y.max() + half[0]) + 2, min(0, y.min() - half[0]) - 2)


def draw_neighbours(
    queries: Sequence[np.ndarray], rows: Sequence[tuple[str, Sequence[Sequence[np.ndarray]]]]
) -> Figure:
    """For every query its nearest images under several encoders: `rows` holds (name, neighbours of each query)."""
    count = len(rows[0][1][0])
    figure, grid = plt.subplots(
        len(queries) * len(rows), count + 1, figsize=(1.0 * (count + 1), 1.05 * len(queries) * len(rows)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for which, query in enumerate(queries):
        for line, (name, neighbours) in enumerate(rows):
            axes = grid[which * len(rows) + line]
            panel(axes[0], query, name)
            for beside, image in zip(axes[1:], neighbours[which], strict=True):
                panel(beside, image, "")
    return figure


def save_picture(figure: Figure, out: Path) -> dict[str, str]:
    """Write a figure; returns where it is, as the commands that draw say it."""
    figure.savefig(out, dpi=150)
    return {"picture": str(out)}


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
