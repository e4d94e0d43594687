"""From a file's values to levels: uint8 where the source has eight bits, uint16 where it has more.

    values = Values(np.array([[0, 4095]], np.uint16), "TIFF", said=None)
    to_levels(values, preprocessing)             # [H, W, C]

Which values become black and white is decided per image: by what its file says, by what the images of its kind use, or by
what was asked for (data/settings.py). Eight-bit images keep 0 … 255 where the asked range goes beyond it.
"""

import io
import json
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from otherview.data.image import Preprocessing
from otherview.data.settings import Range, keeps_eight_bits
from otherview.errors import BrokenImage, WrongChannels

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that devices have."""
PACKED = b"\x93OTHERVIEW"
"""How values begin that were packed."""
LOOKED_AT = 2**16
"""Values of an image, spread evenly over it, that its percentiles are taken of."""


class Values(NamedTuple):
    """What a file holds: [H, W], [H, W, C] or [C, H, W]."""

    array: np.ndarray
    format: str = "array"
    said: Range | None = None
    """Black and white, where the file says so."""
    whole: Range | None = None
    """What its bits allow, where these are fewer or mean something else than the array's type."""

    @property
    def kind(self) -> str:
        """'PNG uint16', 'array float32' …"""
        return f"{self.format} {self.array.dtype.name}"

    @property
    def deep(self) -> bool:
        """Whether there may be more than 256 different values."""
        few = self.array.dtype.kind in "ui" and self.whole is not None and self.whole[1] - self.whole[0] <= 255
        return self.array.dtype.itemsize > 1 and not few


def to_levels(values: Values, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 or, for a deep source, uint16 [H, W, C]; gray is repeated where three channels are asked for, without a copy.

    Raises BrokenImage for values that mean nothing, WrongChannels where the image has other channels.
    """
    array = _with_channels(values.array, preprocessing.channels)
    pixels = _scaled(array, _range_of(values, array, preprocessing), deep=preprocessing.deep)
    return pixels if pixels.shape[2] > 1 else np.broadcast_to(pixels, (*pixels.shape[:2], preprocessing.channels))


def _with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """[H, W, C], or [H, W, 1] for gray where three channels are asked for."""
    if array.dtype.kind not in "buif":
        raise BrokenImage(f"it holds {array.dtype}, not numbers")
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and array.shape[2] != channels and array.shape[0] == channels:
        array = array.transpose(1, 2, 0)
    fits = array.ndim == 3 and (array.shape[2] == channels or (array.shape[2] == 1 and channels == 3))
    if not fits or 0 in array.shape:
        said = f"its shape is {array.shape}, where {channels} channels were asked for (encoder.channels)"
        if array.ndim == 3 and array.size:
            raise WrongChannels(said, min(array.shape[2], array.shape[0]))  # pictures have more rows than channels
        raise BrokenImage(said)
    return array


def _range_of(values: Values, array: np.ndarray, preprocessing: Preprocessing) -> Range:
    """What becomes black and white in this image."""
    levels = preprocessing.levels
    if isinstance(levels, str):
        if levels == "auto" and values.said is not None:
            return values.said
        if levels == "type" or not values.deep:
            return type_range(values)
        return _range_in_use(array, preprocessing.ranges.get(values.kind, ()))
    if len(levels) == 3:
        return percentiles(array, levels[1], levels[2])
    return type_range(values) if not values.deep and keeps_eight_bits(levels) else levels


def _range_in_use(array: np.ndarray, known: tuple[Range, ...]) -> Range:
    """The first range of its kind that holds the image; else one around the image's own values."""
    if known and (not is_depth(known[0]) or known[0][1] == _most(array.dtype)):
        return known[0]
    low, high = extremes(array)
    return next((one for one in known if one[0] <= low and high <= one[1]), None) or range_around(
        array.dtype, low, high
    )


def is_depth(one: Range) -> bool:
    """Whether a range is that of so many bits."""
    return one[0] == 0 and one[1] in (2.0**bits - 1 for bits in DEPTHS)


def extremes(array: np.ndarray) -> Range:
    """Least and largest finite value; 0 and 0 where there is none."""
    if array.dtype.kind == "f":
        array = array[np.isfinite(array)]
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)


def range_around(dtype: np.dtype, low: float, high: float) -> Range:
    """For counts from 0 on the bits that hold them, for shares [0, 1], else the values themselves."""
    if dtype.kind in "ui" and low >= 0 and high < 2**16:
        return 0.0, 2.0 ** next(bits for bits in DEPTHS if high < 2**bits) - 1
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return _increasing(low, high)


def _increasing(low: float, high: float) -> Range:
    """A range that can be divided by, also of values that are all alike."""
    return low, max(high, low + 1e-6 * max(1.0, abs(low)))


def percentiles(array: np.ndarray, low: float, high: float) -> Range:
    """Of the finite values, from a sample that is spread evenly; always increasing."""
    found = np.percentile(sample_of(array, LOOKED_AT), (low, high))
    return _increasing(float(found[0]), float(found[1]))


def sample_of(array: np.ndarray, count: int) -> np.ndarray:
    """About so many finite values from all over the image, in no rhythm of its rows; a single 0 where there is none."""
    flat = array.reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype == bool else flat
    places = (np.arange(count) * 0.6180339887498949 % 1 * flat.size).astype(np.int64)
    some = flat[places] if flat.size > count else flat
    some = some[np.isfinite(some)] if some.dtype.kind == "f" else some
    return some if some.size else np.zeros(1)


def type_range(values: Values) -> Range:
    """The whole range of the file's type; raises BrokenImage where that says nothing."""
    array, dtype = values.array, values.array.dtype
    if values.whole is not None:
        return values.whole
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind in "ui" and dtype.itemsize <= 2:
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    low, high = extremes(array)
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    if dtype.kind in "ui" and low >= 0 and high < 2**16:
        return 0.0, 65535.0
    raise BrokenImage(
        f"its values, {dtype}, run from {low:.4g} to {high:.4g}: say with views.levels what is black and white"
    )


def _most(dtype: np.dtype) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else float("inf")


def _scaled(array: np.ndarray, black_white: Range, *, deep: bool) -> np.ndarray:
    """Levels: uint8 in 0 … 255, or uint16 in 0 … 65535."""
    whole, dtype = (65535, np.uint16) if deep else (255, np.uint8)
    if array.dtype == dtype and black_white == (0, whole):
        return np.ascontiguousarray(array)
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.dtype.kind in "ui" and array.dtype.itemsize <= 2:
        return _table(array.dtype.str, *black_white, whole)[array.view(f"u{array.dtype.itemsize}")]
    low, high = black_white
    exact = array.dtype.itemsize > 4 or array.dtype.kind in "ui"  # such values have more digits than float32
    scaled = (array.astype(np.float64 if exact else np.float32) - low) * (whole / (high - low))
    return np.clip(np.rint(np.nan_to_num(scaled, nan=0, posinf=whole, neginf=0)), 0, whole).astype(dtype)


@lru_cache(maxsize=64)
def _table(dtype: str, low: float, high: float, whole: int) -> np.ndarray:
    """The level of every value that so few bits can hold, by the value's bits; byte order counts."""
    bits = 8 * np.dtype(dtype).itemsize
    values = np.arange(2**bits, dtype=f"u{bits // 8}").view(dtype).astype(np.float64)
    return np.clip(np.rint((values - low) * (whole / (high - low))), 0, whole).astype(
        np.uint16 if whole > 255 else np.uint8
    )


def packed(values: Values) -> bytes:
    """As bytes, for images that are parts of a file: a slice, a frame, a window. A source hands out bytes whatever it reads."""
    about = json.dumps({"format": values.format, "said": values.said, "whole": values.whole}).encode()
    written = io.BytesIO()
    written.write(PACKED + len(about).to_bytes(4) + about)
    np.lib.format.write_array(written, np.ascontiguousarray(values.array), allow_pickle=False)
    return written.getvalue()


def unpacked(data: bytes) -> Values:
    """What `packed` packed."""
    read = io.BytesIO(data)
    read.seek(len(PACKED))
    about = json.loads(read.read(int.from_bytes(read.read(4))))
    array = np.lib.format.read_array(read, allow_pickle=False)
    said, whole = (tuple(about[name]) if about[name] else None for name in ("said", "whole"))
    return Values(array, str(about["format"]), said, whole)
