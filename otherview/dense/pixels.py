"""Images with the class of every pixel: a random square to learn from, the whole image to be judged.

Axes: B images, C channels, S side of the square, H and W pixels.
"""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from otherview.data.image import Image
from otherview.data.objects import IGNORED
from otherview.dense.jitter import resized
from otherview.dense.settings import SegmentConfig
from otherview.errors import BrokenImage
from otherview.views.colour import draw_colour, recolour

TRIES = 10
"""For a crop that is not nearly all of one class."""


class PixelsView(NamedTuple):
    """A square of an image and the classes of its pixels, or a batch of them."""

    pixels: UInt8[Tensor, "*B C S S"]
    labels: UInt8[Tensor, "*B S S"]


def classes_of(image: Image, *, zero_is_ignored: bool) -> UInt8[np.ndarray, "H W"]:
    """The class of every pixel, IGNORED where it counts nowhere; raises BrokenImage for labels of another size."""
    labels = image.pixel_labels()  # pyright: ignore[reportAttributeAccessIssue]  # pictures of a source have it
    if labels.shape != (image.height, image.width):
        raise BrokenImage(
            f"its labels are of {labels.shape[1]}×{labels.shape[0]} pixels, itself of {image.width}×{image.height}"
        )
    return numbered(labels, zero_is_ignored=zero_is_ignored)


def numbered(labels: np.ndarray, *, zero_is_ignored: bool) -> UInt8[np.ndarray, "H W"]:
    """Levels of a picture of labels as classes; raises BrokenImage for one that is too large."""
    if labels.max(initial=0) > IGNORED:
        raise BrokenImage(f"its labels reach {labels.max()}: classes go up to {IGNORED - 1}, {IGNORED} counts nowhere")
    labels = labels.astype(np.uint8)
    if not zero_is_ignored:
        return labels
    return np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1).astype(np.uint8)


def shown_size(image: Image, config: SegmentConfig) -> tuple[int, int]:
    """Height and width at which an image is judged: the shorter side `size`, or the longer one `longest`."""
    sides = image.height, image.width
    factor = min(config.size / min(sides), config.longest / max(sides))
    return max(1, round(image.height * factor)), max(1, round(image.width * factor))


@dataclass(frozen=True)
class PixelViews:
    """Makes a PixelsView: scaled, cut out, mirrored, its colours changed."""

    config: SegmentConfig
    fill: tuple[int, ...] = (128,)
    """Levels of pixels that show nothing: the mean, which is 0 to the net."""

    def __call__(self, image: Image, rng: Random) -> PixelsView:
        config, side = self.config, self.config.size
        factor = rng.uniform(*config.jitter)
        size = tuple(max(1, round(length * factor)) for length in shown_size(image, config))
        labels = classes_of(image, zero_is_ignored=config.zero_is_ignored)
        labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        top, left = self._corner(labels, rng)
        pixels = resized(image, (size[0], size[1]))[top : top + side, left : left + side]
        labels = labels[top : top + side, left : left + side]
        if rng.random() < config.flip:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        pixels = recolour(np.ascontiguousarray(pixels), draw_colour(config.colour, rng))
        square = np.empty((pixels.shape[2], side, side), np.uint8)
        square[:] = np.reshape(self.fill, (-1, 1, 1))
        truth = np.full((side, side), IGNORED, np.uint8)
        square[:, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
        truth[: labels.shape[0], : labels.shape[1]] = labels
        return PixelsView(torch.from_numpy(square), torch.from_numpy(truth))

    def _corner(self, labels: np.ndarray, rng: Random) -> tuple[int, int]:
        """Where the square begins; one that shows several classes is looked for."""
        side, corner = self.config.size, (0, 0)
        for _ in range(TRIES):
            corner = tuple(rng.randint(0, max(0, length - side)) for length in labels.shape)
            part = labels[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
            counts = np.bincount(part[part != IGNORED])
            if np.count_nonzero(counts) > 1 and counts.max() < self.config.most_of_one_class * counts.sum():
                break
        return corner[0], corner[1]
