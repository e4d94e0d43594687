"""From bytes to what a person would see: opened at once, decoded only as far as it is looked at.

    picture = open_picture(data, "a.jpg")
    picture.height, picture.width        # upright, at full resolution
    picture.decode()                     # uint8, or uint16 where the source has more than eight bits: [H, W, C]
    picture.reduced(.3)                  # perhaps smaller: a JPEG is decoded at 1/2, 1/4 or 1/8 for less work

JPEG, which most images are, is opened by its header; every other kind of file is decoded by data/decode.py. The rule of
levels stands in data/values.py. Everything that cannot be read raises BrokenImage.
"""

import io
from contextlib import suppress
from functools import partial

import numpy as np
from PIL import Image

from otherview.data.decode import FORMATS, MOST_PIXELS, ORIENTATION, decode_values, faults_named, upright
from otherview.data.image import PER_LEVEL, RGB, Preprocessing, Reduced
from otherview.data.objects import nothing_placed, pixels_named, placed
from otherview.data.settings import keeps_eight_bits
from otherview.data.source import Source, unlabelled
from otherview.data.values import Values, to_levels
from otherview.errors import BrokenImage, WrongChannels

JPEG_START = b"\xff\xd8\xff"


class JpegPicture:
    """A JPEG that is not decoded yet; raises ValueError where there is none whose three or one channels can be read."""

    def __init__(self, name: str, data: bytes, *, deep: bool = False) -> None:
        height, width, space, _ = _header(data)
        if space not in ("RGB", "YCbCr", "Gray"):
            raise ValueError(f"colour space {space}")
        if height * width > MOST_PIXELS:
            raise BrokenImage(f"{height}×{width} pixels: more than {MOST_PIXELS:,} are taken for a decompression bomb")
        self.name, self._data, self._deep = name, data, deep
        self.label, self.objects, self.pixel_labels = unlabelled, nothing_placed, nothing_placed
        self._orientation = _orientation(data)
        self._size = (width, height) if self._orientation in (5, 6, 7, 8) else (height, width)

    @property
    def height(self) -> int:
        return self._size[0]

    @property
    def width(self) -> int:
        return self._size[1]

    def decode(self) -> np.ndarray:
        """uint8 or uint16 [H, W, 3], the whole image upright, in memory of its own."""
        return np.ascontiguousarray(self.reduced(1.0).pixels)

    def reduced(self, least_scale: float) -> Reduced:
        """A decoder rounds sizes up: where the last row or column is only partly there, and rotation brings it to the front,
        the image begins a fraction of a pixel later."""
        pixels, factor = _decode_jpeg(self._data, self.name, least_scale)
        pixels = upright(pixels, self._orientation)
        if self._deep:
            pixels = np.multiply(pixels, PER_LEVEL, dtype=np.uint16)
        rows, columns = (have - full / factor for have, full in zip(pixels.shape, self._size, strict=False))
        return Reduced(
            pixels,
            factor,
            rows if self._orientation in (3, 4, 7, 8) else 0.0,
            columns if self._orientation in (2, 3, 6, 7) else 0.0,
        )


def _header(data: bytes) -> tuple[int, int, str, str]:
    """Height, width, colour space and subsampling; the package declares their types too loosely."""
    import simplejpeg

    return simplejpeg.decode_jpeg_header(data)  # pyright: ignore[reportReturnType]


def _decode_jpeg(data: bytes, name: str, least_scale: float) -> tuple[np.ndarray, int]:
    """RGB pixels at 1, 1/2, 1/4 or 1/8 of the full size (the scales that cost less), at least `least_scale`."""
    import simplejpeg

    factor = next(factor for factor in (8, 4, 2, 1) if factor == 1 or least_scale * factor <= 1)
    try:
        if factor == 1:
            return simplejpeg.decode_jpeg(data, "RGB"), 1
        height, width, *_ = _header(data)
        small = simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor), min_factor=factor
        )
        return small, factor
    except ValueError:
        pass  # a fault that a more patient decoder may see past
    with faults_named(f"{name}: "), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        return np.array(opened.convert("RGB")), 1


def _orientation(data: bytes) -> int:
    """1 … 8 from the EXIF part; most files have none, and looking closely costs more than decoding a small one."""
    if not _has_exif(data):
        return 1
    with faults_named(), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        return opened.getexif().get(ORIENTATION, 1)


def _has_exif(data: bytes) -> bool:
    """Whether one of the segments before the picture is EXIF: a segment is FF, its kind, and its length in two bytes."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        if data[place + 1] == 0xFF:  # padding
            place += 1
            continue
        if data[place + 1] == 0xE1 and data.startswith(b"Exif\0\0", place + 4):
            return True
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return False


class Picture:
    """An image whose size is known and whose pixels are made when asked for."""

    def __init__(self, name: str, pixels: np.ndarray, values: Values | None = None) -> None:
        self.name = name
        self.values = values
        """As the file has them, where the pixels come from one."""
        self.label, self.objects, self.pixel_labels = unlabelled, nothing_placed, nothing_placed
        self._pixels = pixels

    @property
    def height(self) -> int:
        return self._pixels.shape[0]

    @property
    def width(self) -> int:
        return self._pixels.shape[1]

    def decode(self) -> np.ndarray:
        """uint8 or uint16 [H, W, C], the whole image upright, in memory of its own."""
        return np.ascontiguousarray(self.reduced(1.0).pixels)

    def reduced(self, least_scale: float) -> Reduced:
        """The whole image upright, at `least_scale` of its size or more."""
        return Reduced(self._pixels)


def open_picture(data: bytes, name: str, preprocessing: Preprocessing = RGB) -> Picture | JpegPicture:
    """Open an encoded image; decodes it at once unless it is a JPEG."""
    if not data:
        raise BrokenImage(f"{name}: it is empty")
    try:
        if data.startswith(JPEG_START) and preprocessing.channels == 3 and keeps_eight_bits(preprocessing.levels):
            with suppress(ValueError):
                return JpegPicture(name, data, deep=preprocessing.deep)
        values = decode_values(data, preprocessing.channels)
        return Picture(name, to_levels(values, preprocessing), values)
    except WrongChannels as error:
        raise WrongChannels(f"{name}: {error}", error.channels) from error
    except BrokenImage as error:
        raise BrokenImage(f"{name}: {error}") from error


def picture_of(source: Source, index: int, preprocessing: Preprocessing = RGB) -> Picture | JpegPicture:
    """Open one image of a source; its class, its objects and the classes of its pixels are looked up when asked for."""
    picture = open_picture(source.read(index), source.name(index), preprocessing)
    picture.label = partial(source.label, index)
    picture.objects, picture.pixel_labels = partial(placed, source, index), partial(pixels_named, source, index)
    return picture
