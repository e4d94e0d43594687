"""From a file's values to levels: uint8 [H, W, C], by a stated rule.

8 bits stay as they are; 16-bit integers are divided by 257, so that the full range stays the full range; floats are
multiplied by 255 where they lie in [0, 1]. Other ranges by `levels` (low, high), which become 0 and 255.
"""

from typing import NamedTuple

import numpy as np

from otherview.errors import BrokenImage


class Decoding(NamedTuple):
    """How bytes become levels."""

    channels: int = 3
    levels: tuple[float, float] | None = None
    """Values that become 0 and 255; None: the rule above."""


RGB = Decoding()


def to_levels(array: np.ndarray, decoding: Decoding) -> np.ndarray:
    """uint8 [H, W, C] of an array [H, W], [H, W, C] or [C, H, W]; gray is repeated where three channels are asked for."""
    channels = decoding.channels
    if array.dtype.kind not in "buif":
        raise BrokenImage(f"it holds {array.dtype}, not numbers")
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2) if channels == 3 else array[..., None]
    if array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        raise BrokenImage(f"its shape is {array.shape}, where {channels} channels were asked for (encoder.channels)")
    if array.dtype == np.uint8 and decoding.levels is None:
        return np.ascontiguousarray(array)
    return _scaled(array, decoding.levels or _range_of(array))


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
