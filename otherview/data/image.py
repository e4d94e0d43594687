"""What an image is to everyone above: its size, its pixels when asked for, and how an encoder wants it.

Pixels are levels: uint8 in 0 … 255, or uint16 in 0 … 65535 where the source has more than eight bits (data/values.py).
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from otherview.data.settings import Fit, Ranges, Words


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
        """uint8 or uint16 [H, W, C], the whole image."""
        ...

    def reduced(self, least_scale: float) -> Reduced:
        """The whole image at `least_scale` of its size or more."""
        ...


Views = Callable[[Image, Random], Any]
"""A pure function, run in a worker: one image and its generator in, one sample out."""


class Preprocessing(NamedTuple):
    """How an image file becomes what an encoder sees: which values, which part, at which size, normalised how.

    Reading looks at `channels`, `levels` and `ranges` alone; a whole image is judged at `size`; mean and std normalise on the
    device.
    """

    size: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    """Per channel, of levels in [0, 1]; so is `std`."""
    std: Sequence[float] = (0.229, 0.224, 0.225)
    channels: int = 3
    levels: Words = "auto"
    """Which values become black and white (data/settings.py)."""
    ranges: Ranges = {}  # noqa: RUF012 (nobody writes into it)
    """What is in use among the images' kinds of more than eight bits, as data/ranges.py found it."""
    fit: Fit = "crop"
    """How a whole image gets this size: its centre is cut out, it is stretched, or it is framed by the mean."""
    crop_pct: float = 1.0
    """With crop: share of the shorter side that is left after a centre crop; the published protocols have 224/256."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    @property
    def about(self) -> dict[str, Any]:
        """What a result says of how whole images were shown."""
        return {"fit": self.fit, "size": list(self.size)}

    @property
    def deep(self) -> bool:
        """Whether pixels are carried in 16 bits, since some images have more than eight."""
        return bool(self.ranges)


RGB = Preprocessing()


PER_LEVEL = 257
"""Values of 16 bits for each of 256 levels."""


def is_repeated(pixels: np.ndarray) -> bool:
    """Whether [H, W, C] is gray whose channels are one and the same memory."""
    return pixels.ndim == 3 and pixels.shape[2] > 1 and pixels.strides[2] == 0


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """The nearest of 256 levels, for what knows no more of them: pictures, RandAugment, corruptions."""
    assert pixels.dtype in (np.uint8, np.uint16), pixels.dtype
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels / PER_LEVEL).astype(np.uint8)


def level(of_256: int, dtype: np.dtype) -> int:
    """One of 256 levels in pixels of a type."""
    return of_256 if dtype == np.uint8 else PER_LEVEL * of_256
