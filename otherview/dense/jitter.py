"""Images with their objects in a square: scaled at random to learn from, fitted in to be judged (large-scale jitter).

    view = JitteredObjects(size=1024, jitter=(0.1, 2.0), flip=0.5)(image, rng)
    fitted(image, 1024)                                                  # the longer side becomes 1024

What does not fill the square is padded on the right and below. Boxes are those of what is left of the masks.

Axes: B images, C channels, S side of the square, n objects.
"""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from otherview.data.image import Image, Reduced
from otherview.data.loader import Ragged
from otherview.data.objects import Objects
from otherview.errors import BrokenImage
from otherview.geometry import Crop
from otherview.views.crop import cut

PADDING = 128
"""The level of pixels that show nothing."""


class ObjectsView(NamedTuple):
    """A square of an image with the objects in it, or a batch of them."""

    pixels: UInt8[Tensor, "*B C S S"]
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

    pixels: UInt8[Tensor, "C S S"]
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
    """The whole image at `size` (height, width): uint8 [H, W, C]."""
    least = min(1.0, max(size[0] / image.height, size[1] / image.width))
    reduced: Reduced = image.reduced(least)
    return cut(reduced, Crop(0.0, 0.0, float(image.height), float(image.width), False), size=size)


def padded(pixels: np.ndarray, side: int) -> UInt8[Tensor, "C S S"]:
    """Pixels [H, W, C] in the upper left corner of a square."""
    square = np.full((pixels.shape[2], side, side), PADDING, np.uint8)
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
