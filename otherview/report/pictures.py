"""Pictures of views, masks and correspondence, and what all pictures share: panels, legends, numbers in circles.

One fixed style, readable without colour: outlines are drawn twice, dark under light; masked patches are hatched.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from otherview.data.image import Image, eight_bits
from otherview.geometry import Crop, PatchGrid, place
from otherview.views.device_colour import coloured_alone
from otherview.views.view import View, ViewPair

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

TEXT, SMALL = 10, 8.5
"""Sizes of text, in points; at 110 dots an inch a column of a phone's width still shows them."""
HATCHED: dict[str, Any] = {"facecolor": "0.55", "edgecolor": "0.9", "hatch": "////", "linewidth": 0}
"""Masked patches: nothing in a photo or an X-ray looks like it."""


def pixels_of(view: View) -> np.ndarray:
    """uint8 [H, W, 3] of one view, its colours done."""
    return coloured_alone(view).numpy().transpose(1, 2, 0)


def masked_panel(axes: Axes, view: View, grid: PatchGrid, title: str) -> None:
    """The view with its masked patches hatched."""
    pixels = pixels_of(view)
    panel(axes, pixels, title)
    masked = view.masked.numpy().reshape(-1, *grid)[0]  # of several masks, the first
    hatch(axes, masked, (pixels.shape[0] / grid.rows, pixels.shape[1] / grid.columns))


def hatch(axes: Axes, masked: np.ndarray, size: tuple[float, float]) -> None:
    """Hatched patches of this size, in pixels, where `masked` [rows, columns] is true."""
    height, width = size
    patches = [Rectangle((v * width, u * height), width, height) for u, v in np.argwhere(masked).tolist()]
    axes.add_collection(PatchCollection(patches, match_original=False, **HATCHED))


def legend(figure: Figure | SubFigure, marks: Sequence[tuple[Artist, str]], *, columns: int = 4) -> None:
    """What the marks mean, below the picture."""
    handles, words = [mark for mark, _ in marks], [word for _, word in marks]
    figure.legend(handles, words, loc="outside lower center", ncol=columns, fontsize=SMALL, frameon=False)


MASKED = Rectangle((0, 0), 1, 1, **HATCHED), "masked patch"


def panel(axes: Axes, pixels: np.ndarray, title: str) -> None:
    """An image whose axes count pixels from its upper left edge, as crops and places do; of many channels, three.

    uint8, uint16 over its whole range, or colours in [0, 1].
    """
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].repeat(3, axis=2)
    shown = pixels if pixels.dtype.kind == "f" else eight_bits(pixels)
    axes.imshow(shown, interpolation="nearest", extent=(0, pixels.shape[1], pixels.shape[0], 0))
    axes.autoscale(False)
    axes.set_title(title, fontsize=TEXT, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])


def _outline(axes: Axes, crop: Crop, label: str, *, above: bool) -> None:
    """The crop's rectangle; its name stands in the upper left or the lower right corner, so that two can be read."""
    left, top, right, bottom = crop.left, crop.top, crop.left + crop.width, crop.top + crop.height
    for colour, width in (("black", 2.4), ("white", 1.0)):
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, linewidth=width)  # pyright: ignore[reportArgumentType]
    x, y, ha, va = (left, top, "left", "top") if above else (right, bottom, "right", "bottom")
    style = {"facecolor": "black", "pad": 1, "linewidth": 0}
    axes.text(float(x), float(y), label, ha=ha, va=va, color="white", fontsize=SMALL, bbox=style)


def _as_said(crop: Crop) -> str:
    turned = f", turned {90 * int(crop.turns)}°" if int(crop.turns) else ""
    return f"{crop.height:.0f}×{crop.width:.0f} px{turned}{', mirrored' if crop.flipped else ''}"


def draw_views(images: Sequence[Image], pairs: Sequence[ViewPair], grid: PatchGrid) -> Figure:
    """A row per image: the image with both crops, the online view, the online view masked, the target view."""
    figure, rows = plt.subplots(
        len(images), 4, figsize=(10, 2.9 * len(images) + 0.4), squeeze=False, layout="constrained"
    )
    for axes, image, pair in zip(rows, images, pairs, strict=True):
        panel(axes[0], image.decode(), f"image\n{image.height}×{image.width} px")
        _outline(axes[0], pair.online.crop, "online", above=True)
        _outline(axes[0], pair.target.crop, "target", above=False)
        panel(axes[1], pixels_of(pair.online), f"online view\n{_as_said(pair.online.crop)}")
        masked_panel(
            axes[2], pair.online, grid, f"what is encoded\n{int(pair.online.masked.sum())} of {grid.patches} masked"
        )
        panel(axes[3], pixels_of(pair.target), f"target view\n{_as_said(pair.target.crop)}")
    legend(figure, [MASKED])
    return figure


def draw_masks(masks: Sequence[np.ndarray], frequency: np.ndarray, *, count: int) -> Figure:
    """Some masks, and how often each patch was masked over `count` masks."""
    columns = 3
    lines = -(-len(masks) // columns)
    figure = plt.figure(figsize=(9, max(3.6, 1.25 * lines)), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[1.1 * columns, 4.6]))
    for axes, mask in zip(left.subplots(lines, columns, squeeze=False).flat, masks, strict=False):
        panel(axes, np.full((*mask.shape, 3), 230, np.uint8), f"{int(mask.sum())} of {mask.size}")
        hatch(axes, mask, (1.0, 1.0))
    legend(left, [MASKED])
    axes = right.subplots()
    shown = axes.imshow(frequency, vmin=0, vmax=1, cmap="gray_r")
    axes.set_title(f"how often each patch is masked, over {count:,} masks", fontsize=TEXT)
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
    right.colorbar(shown, ax=axes, shrink=0.7, label="share of masks")
    return figure


def draw_correspondence(pairs: Sequence[ViewPair], grid: PatchGrid) -> Figure:
    """A row per pair: the target view with numbered patches, and where they fall in and around the online view."""
    figure, rows = plt.subplots(len(pairs), 2, figsize=(8, 4 * len(pairs) + 0.4), squeeze=False, layout="constrained")
    for axes, pair in zip(rows, pairs, strict=True):
        _numbered(axes[0], pair.target, grid)
        _warped(axes[1], pair, grid)
    number = Line2D([], [], marker="o", linestyle="none", color="black", markersize=9), "the same patch, left and right"
    outline = Line2D([], [], color="0.5"), "patches of the target view"
    legend(figure, [number, outline, MASKED])
    return figure


def marked(grid: PatchGrid) -> list[tuple[int, int]]:
    """A few patches that are followed from one view to the other."""
    rows = np.linspace(0, grid.rows - 1, 4).round().astype(int)
    columns = np.linspace(0, grid.columns - 1, 4).round().astype(int)
    return [(int(u), int(v)) for u in rows for v in columns]


def _numbered(axes: Axes, view: View, grid: PatchGrid) -> None:
    pixels = pixels_of(view)
    size = pixels.shape[0] / grid.rows, pixels.shape[1] / grid.columns
    panel(axes, pixels, "the target view, which is predicted")
    for number, (u, v) in enumerate(marked(grid), 1):
        dot(axes, (v + 0.5) * size[1], (u + 0.5) * size[0], number)


def dot(axes: Axes, x: float, y: float, number: int) -> None:
    """A number in a circle."""
    axes.text(x, y, str(number), ha="center", va="center", fontsize=SMALL, color="white",
              bbox={"boxstyle": "circle,pad=0.15", "facecolor": "black", "edgecolor": "white", "linewidth": 0.6})  # fmt: skip


def _warped(axes: Axes, pair: ViewPair, grid: PatchGrid) -> None:
    """The target view's patches as outlined cells in the frame of the online view, those outside it included."""
    pixels = pixels_of(pair.online)
    placement = place(pair.target.crop, within=pair.online.crop, grid=grid)
    size = pixels.shape[0] / grid.rows, pixels.shape[1] / grid.columns
    centres = [((part + 0.5) * side).numpy() for part, side in zip(placement.everywhere, size, strict=True)]
    y, x = (np.unique(part.round(6)) for part in centres)
    half = 0.5 * float(placement.row_scale) * size[0], 0.5 * float(placement.column_scale) * size[1]
    masked_panel(axes, pair.online, grid, "where they fall in the masked online view")
    for edge in np.concatenate([[y.min() - half[0]], y + half[0]]):
        axes.plot([x.min() - half[1], x.max() + half[1]], [edge, edge], color="white", linewidth=0.4, alpha=0.8)
    for edge in np.concatenate([[x.min() - half[1]], x + half[1]]):
        axes.plot([edge, edge], [y.min() - half[0], y.max() + half[0]], color="white", linewidth=0.4, alpha=0.8)
    for number, (u, v) in enumerate(marked(grid), 1):
        dot(axes, float(centres[1][u, v]), float(centres[0][u, v]), number)
    axes.set_facecolor("0.6")
    axes.set_xlim(min(0, x.min() - half[1]) - 2, max(pixels.shape[1], x.max() + half[1]) + 2)
    axes.set_ylim(max(pixels.shape[0], y.max() + half[0]) + 2, min(0, y.min() - half[0]) - 2)


def save_picture(figure: Figure, out: Path) -> dict[str, str]:
    """Write a figure; returns where it is, as the commands that draw say it."""
    figure.savefig(out, dpi=150)
    return {"picture": str(out)}
