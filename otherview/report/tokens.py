"""Pictures of what an encoder makes of images: principal components of its patches as colours, the attention of its heads."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from otherview.report.pictures import panel


def draw_components(images: Sequence[np.ndarray], colours: Mapping[str, np.ndarray]) -> Figure:
    """A column per image: itself, then its patches under each encoder; `colours` has [images, rows, columns, 3] by name."""
    figure, axes = plt.subplots(
        1 + len(colours), len(images), figsize=(1.5 * len(images), 1.7 * (1 + len(colours))), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for place, image in zip(axes[0], images, strict=True):
        panel(place, image, "")
    for row, (name, pictures) in zip(axes[1:], colours.items(), strict=True):
        for place, picture in zip(row, pictures, strict=True):
            panel(place, picture, "")
        row[0].set_ylabel(name, fontsize=8)
    axes[0][0].set_ylabel("image", fontsize=8)
    return figure


def draw_attention(images: Sequence[np.ndarray], attention: np.ndarray) -> Figure:
    """A row per image: itself, then what cls attends to by head; `attention` is [images, heads, rows, columns]."""
    heads = attention.shape[1]
    figure, axes = plt.subplots(
        len(images), 1 + heads, figsize=(1.5 * (1 + heads), 1.6 * len(images)), squeeze=False, layout="constrained"
    )
    for row, image, maps in zip(axes, images, attention, strict=True):
        panel(row[0], image, "")
        for number, (place, weights) in enumerate(zip(row[1:], maps, strict=True), start=1):
            place.imshow(weights, cmap="gray", interpolation="nearest", vmin=0)
            place.set_xticks([])
            place.set_yticks([])
            place.set_title(
                f"head {number}, up to {weights.max():.3f}" if row is axes[0] else f"up to {weights.max():.3f}",
                fontsize=7,
            )
    return figure
