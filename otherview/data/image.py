"""What an image is to everyone above: its size, its pixels when asked for, and how its values become levels.

Levels are uint8 [H, W, C], by a stated rule: 8 bits stay as they are; 16-bit integers are divided by 257, so that the full
range stays the full range; floats are multiplied by 255 where they lie in [0, 1]. Other ranges by `levels` (low, high),
which become 0 and 255.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from otherview.errors import BrokenImage, WrongChannels


class Reduced(NamedTuple):
    """An image decoded at 1/`factor` of its size; its upper left corner lies at (`top`, `left`) of these pixels."""

    pixels: np.ndarray
    factor: int = 1
    top: float = 0.0
    left: float = 0.0


@runtime_checkable
class Image(Protocol):
    """An image as views see it: its size as a person sees it, its pixels and its class when asked for."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def label(self) -> Callable[[], int | None]:
        """Its class, counted from 0; None where it has none."""
        ...

    def decode(self) -> np.ndarray:
        """uint8 [H, W, C], the whole image."""
        ...

    def reduced(self, least_scale: float) -> Reduced:
        """The whole image at `least_scale` of its size or more."""
        ...


Views = Callable[[Image, Random], Any]
"""A pure function, run in a worker: one image and its generator in, one sample out."""


class Preprocessing(NamedTuple):
    """How an image file becomes what an encoder sees: which values, which part, at which size, normalised how.

    Reading looks at `channels` and `levels` alone; a whole image is judged at `size`; mean and std normalise on the device.
    """

    size: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    """Per channel, of levels in [0, 1]; so is `std`."""
    std: Sequence[float] = (0.229, 0.224, 0.225)
    channels: int = 3
    levels: tuple[float, float] | None = None
    """Values that become 0 and 255; None: the rule above."""
    crop_pct: float = 1.0
    """Share of the shorter side that is left after a centre crop; the published protocols have 224/256."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


RGB = Preprocessing()


def to_levels(array: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 [H, W, C] of an array [H, W], [H, W, C] or [C, H, W]; gray is repeated where three channels are asked for."""
    channels = preprocessing.channels
    if array.dtype.kind not in "buif":
        raise BrokenImage(f"it holds {array.dtype}, not numbers")
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2) if channels == 3 else array[..., None]
    if array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        said = f"its shape is {array.shape}, where {channels} channels were asked for (encoder.channels)"
        raise WrongChannels(said, _channels_of(array)) if array.ndim == 3 and array.size else BrokenImage(said)
    if array.dtype == np.uint8 and preprocessing.levels is None:
        return np.ascontiguousarray(array)
    return _scaled(array, preprocessing.levels or _range_of(array))


def _channels_of(array: np.ndarray) -> int:
    """The shorter of the two axes that may hold channels: pictures have more rows and columns."""
    return min(array.shape[2], array.shape[0])


def _range_of(array: np.ndarray) -> tuple[float, float]:
    if array.dtype == bool:
        return 0.0, 1.0
    if np.issubdtype(array.dtype, np.floating):
        finite = array[np.isfinite(array)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if low >= 0 and high <= 1:
            return 0.0, 1.0
        raise BrokenImage(f"its values run from {low:.4g} to {high:.4g}: say with views.levels what is black and white")
    if array.dtype == np.uint16 or (array.dtype.itemsize > 2 and array.min() >= 0 and array.max() <= 65535):
        return 0.0, 65535.0
    raise BrokenImage(f"its values are {array.dtype}: say with views.levels what is black and white")


def _scaled(array: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    low, high = levels
    scaled = (array.astype(np.float32) - low) * (255 / (high - low))
    return np.clip(np.rint(np.nan_to_num(scaled, posinf=255, neginf=0)), 0, 255).astype(np.uint8)
