"""Images with their objects, or with the class of every pixel, in a square: cut or scaled at random to learn from.

    view = JitteredObjects(size=1024, jitter=(0.1, 2.0), flip=0.5)(image, rng)       # large-scale jitter
    fitted(image, 1024)                                                  # to be judged: the longer side becomes 1024

What does not fill the square is padded on the right and below. Boxes are those of what is left of the masks.

Axes: B images, C channels, S side of the square, H and W pixels, n objects.
"""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt, UInt8
from torch import Tensor

from otherview.data.image import Image, Reduced, level
from otherview.data.loader import Ragged
from otherview.data.objects import IGNORED, Objects
from otherview.dense.settings import SegmentConfig
from otherview.errors import BrokenImage
from otherview.geometry import Crop
from otherview.views.colour import draw_colour
from otherview.views.crop import cut
from otherview.views.recolour import recolour

PADDING = 128
"""The level of pixels that show nothing."""


class ObjectsView(NamedTuple):
    """A square of an image with the objects in it, or a batch of them."""

    pixels: UInt[Tensor, "*B C S S"]
    size: Int[Tensor, "*B 2"]
    """Height and width of the part that shows the image."""
    boxes: Ragged
    """float32 [n, 4]: left, top, right, bottom in pixels of the square"""
    labels: Ragged
    """int64 [n], counted from 1: 0 is the background"""
    masks: Ragged
    """uint8 [n, S, S]"""


class Square(NamedTuple):
    """An image in a square."""

    pixels: UInt[Tensor, "C S S"]
    size: tuple[int, int]
    """Of the part that shows the image."""
    scale: tuple[float, float]
    """Pixels of the square per pixel of the image, along rows and columns."""


def fitted(image: Image, side: int) -> Square:
    """The whole image, its longer side `side` pixels."""
    factor = side / max(image.height, image.width)
    size = max(1, round(image.height * factor)), max(1, round(image.width * factor))
    pixels = resized(image, size)
    scale = size[0] / image.height, size[1] / image.width
    return Square(padded(pixels, side), size, scale)


def resized(image: Image, size: tuple[int, int]) -> np.ndarray:
    """The whole image at `size` (height, width): [H, W, C]."""
    least = min(1.0, max(size[0] / image.height, size[1] / image.width))
    reduced: Reduced = image.reduced(least)
    return np.ascontiguousarray(cut(reduced, Crop(0.0, 0.0, float(image.height), float(image.width), False), size=size))


def padded(pixels: np.ndarray, side: int) -> UInt[Tensor, "C S S"]:
    """Pixels [H, W, C] in the upper left corner of a square."""
    square = np.full((pixels.shape[2], side, side), level(PADDING, pixels.dtype), pixels.dtype)
    square[:, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
    return torch.from_numpy(square)


@dataclass(frozen=True)
class JitteredObjects:
    """Makes an ObjectsView: scaled by a random factor, a square of it cut out or filled up, mirrored or not."""

    size: int
    jitter: tuple[float, float]
    flip: float

    def __call__(self, image: Image, rng: Random) -> ObjectsView:
        drawn, mirrored, places = rng.uniform(*self.jitter), rng.random() < self.flip, (rng.random(), rng.random())
        factor = drawn * self.size / max(image.height, image.width)
        whole = max(1, round(image.height * factor)), max(1, round(image.width * factor))
        corner = tuple(round(place * max(0, side - self.size)) for place, side in zip(places, whole, strict=True))
        shown = tuple(min(self.size, side - first) for side, first in zip(whole, corner, strict=True))
        objects = image.objects()  # pyright: ignore[reportAttributeAccessIssue]  # pictures of a source have it
        check_size(objects, image)
        pixels = self._window(resized(image, whole), corner, shown, mirrored)
        masks = np.zeros((len(objects.masks), self.size, self.size), np.uint8)
        for mask, into in zip(objects.masks, masks, strict=True):
            part = self._window(scaled_mask(mask, whole)[..., None], corner, shown, mirrored)
            into[: shown[0], : shown[1]] = part[..., 0]
        left = np.flatnonzero(masks.any(axis=(1, 2)))
        return ObjectsView(
            padded(pixels, self.size),
            torch.tensor(shown),
            Ragged.of(torch.from_numpy(boxes_around(masks[left]))),
            Ragged.of(torch.from_numpy(objects.classes[left] + 1)),
            Ragged.of(torch.from_numpy(masks[left])),
        )

    def _window(
        self, pixels: np.ndarray, corner: tuple[int, ...], shown: tuple[int, ...], mirrored: bool
    ) -> np.ndarray:
        part = pixels[corner[0] : corner[0] + shown[0], corner[1] : corner[1] + shown[1]]
        return part[:, ::-1] if mirrored else part


def check_size(objects: Objects, image: Image) -> None:
    """Raise BrokenImage where annotations were made for an image of another size."""
    if objects.masks.shape[1:] != (image.height, image.width):
        had = objects.masks.shape
        raise BrokenImage(f"its annotations are for {had[2]}×{had[1]} pixels, it has {image.width}×{image.height}")


def scaled_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size: a pixel is inside where more than half of it is; uint8."""
    shrinks = size[0] < mask.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return (cv2.resize(mask * np.uint8(255), size[::-1], interpolation=how) > 127).astype(np.uint8)


def boxes_around(masks: np.ndarray) -> np.ndarray:
    """float32 [n, 4]: left, top, right, bottom of masks [n, H, W] that are not empty."""
    sides: list[np.ndarray] = []
    for axis in (1, 2):
        along = np.asarray(masks.any(axis=axis))
        sides += [along.argmax(axis=1), along.shape[1] - along[:, ::-1].argmax(axis=1)]
    left, right, top, bottom = sides
    return np.stack([left, top, right, bottom], axis=1).astype(np.float32)


TRIES = 10
"""For a crop that is not nearly all of one class."""


class PixelsView(NamedTuple):
    """A square of an image and the classes of its pixels, or a batch of them."""

    pixels: UInt[Tensor, "*B C S S"]
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
        square = np.empty((pixels.shape[2], side, side), pixels.dtype)
        square[:] = np.reshape([level(channel, pixels.dtype) for channel in self.fill], (-1, 1, 1))
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
