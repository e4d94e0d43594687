"""From bytes to what a person would see: opened at once, decoded only as far as it is looked at.

    picture = open_picture(data, "a.jpg")
    picture.height, picture.width        # upright, at full resolution
    picture.decode()                     # uint8 [H, W, C]
    picture.reduced(.3)                  # perhaps smaller: a JPEG is decoded at 1/2, 1/4 or 1/8 for less work

What a person would see stands in data/decode.py, the rule of levels in data/image.py. Everything that cannot be read
raises BrokenImage.
"""

from contextlib import suppress
from functools import partial

import numpy as np

from otherview.data.decode import decode_values
from otherview.data.image import RGB, Preprocessing, Reduced, to_levels
from otherview.data.jpeg import JPEG_START, JpegPicture
from otherview.data.objects import nothing_placed, pixels_named, placed
from otherview.data.source import Source, unlabelled
from otherview.errors import BrokenImage


class Picture:
    """An image whose size is known and whose pixels are made when asked for."""

    def __init__(self, name: str, pixels: np.ndarray) -> None:
        self.name = name
        self.label, self.objects, self.pixel_labels = unlabelled, nothing_placed, nothing_placed
        self._pixels = pixels

    @property
    def height(self) -> int:
        return self._pixels.shape[0]

    @property
    def width(self) -> int:
        return self._pixels.shape[1]

    def decode(self) -> np.ndarray:
        """uint8 [H, W, C], the whole image upright."""
        return self.reduced(1.0).pixels

    def reduced(self, least_scale: float) -> Reduced:
        """The whole image upright, at `least_scale` of its size or more."""
        return Reduced(self._pixels)


def open_picture(data: bytes, name: str, preprocessing: Preprocessing = RGB) -> Picture | JpegPicture:
    """Open an encoded image; decodes it at once unless it is a JPEG."""
    if not data:
        raise BrokenImage(f"{name}: it is empty")
    try:
        if data.startswith(JPEG_START) and preprocessing.channels == 3 and preprocessing.levels is None:
            with suppress(ValueError):
                return JpegPicture(name, data)
        return Picture(name, to_levels(decode_values(data, preprocessing.channels), preprocessing))
    except BrokenImage as error:
        raise BrokenImage(f"{name}: {error}") from error


def picture_of(source: Source, index: int, preprocessing: Preprocessing = RGB) -> Picture | JpegPicture:
    """Open one image of a source; its class, its objects and the classes of its pixels are looked up when asked for."""
    picture = open_picture(source.read(index), source.name(index), preprocessing)
    picture.label = partial(source.label, index)
    picture.objects, picture.pixel_labels = partial(placed, source, index), partial(pixels_named, source, index)
    return picture
