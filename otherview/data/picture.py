"""From bytes to what a person would see: opened at once, decoded only as far as it is looked at.

    picture = open_picture(data, "a.jpg")
    picture.height, picture.width        # upright, at full resolution
    picture.decode()                     # uint8 [H, W, C]
    picture.decode(least_scale=.3)       # perhaps smaller: a JPEG is decoded at any eighth of its size for less work

Alpha lies over white, palettes and CMYK become RGB, of several pages the first is taken, EXIF rotation is undone.
Levels by the rule of data/levels.py. Everything that cannot be read raises BrokenImage.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from otherview.data.levels import RGB, Decoding, to_levels
from otherview.data.source import Source
from otherview.errors import BrokenImage

ORIENTATION = 0x0112
JPEG_START = b"\xff\xd8\xff"
ARRAY_START = b"\x93NUMPY"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PIXELS = 178_956_970
"""Of one image; Pillow's own limit."""
DEEP_MODES = frozenset(("I;16", "I;16B", "I;16L", "I;16N", "I", "F"))

Image.init()
FORMATS = tuple(
    name
    for name in (
        "JPEG",
        "MPO",
        "PNG",
        "BMP",
        "DIB",
        "GIF",
        "WEBP",
        "AVIF",
        "TIFF",
        "PPM",
        "TGA",
        "JPEG2000",
        "ICO",
        "PCX",
        "SGI",
    )
    if name in Image.OPEN  # what Pillow was built with
)
"""What is read whatever a file is called. Formats that Pillow hands to other programs (EPS) are not among them."""


class Look(NamedTuple):
    """How an encoder wants its images."""

    size: tuple[int, int]
    """Height and width in pixels."""
    mean: Sequence[float]
    """Per channel, of levels in [0, 1]; so is `std`."""
    std: Sequence[float]
    decoding: Decoding = RGB


class Picture:
    """An image whose size is known and whose pixels are made when asked for."""

    def __init__(self, name: str, pixels: np.ndarray) -> None:
        self.name = name
        self._pixels = pixels

    @property
    def height(self) -> int:
        return self._pixels.shape[0]

    @property
    def width(self) -> int:
        return self._pixels.shape[1]

    def decode(self, least_scale: float = 1.0) -> np.ndarray:
        """uint8 [H', W', C] with H' ≥ least_scale · height, the whole image upright."""
        return self._pixels


def _header(data: bytes) -> tuple[int, int, str, str]:
    """Height, width, colour space and subsampling; the package declares their types too loosely."""
    import simplejpeg

    return simplejpeg.decode_jpeg_header(data)  # pyright: ignore[reportReturnType]


class JpegPicture(Picture):
    """A JPEG that is not decoded yet; raises ValueError where there is none whose three or one channels can be read."""

    def __init__(self, name: str, data: bytes) -> None:
        height, width, space, _ = _header(data)
        if space not in ("RGB", "YCbCr", "Gray"):
            raise ValueError(f"colour space {space}")
        if height * width > MOST_PIXELS:
            raise BrokenImage(f"{height}×{width} pixels: more than {MOST_PIXELS:,} are taken for a decompression bomb")
        self.name, self._data = name, data
        self._orientation = _orientation(data)
        self._size = (width, height) if self._orientation in (5, 6, 7, 8) else (height, width)

    @property
    def height(self) -> int:
        return self._size[0]

    @property
    def width(self) -> int:
        return self._size[1]

    def decode(self, least_scale: float = 1.0) -> np.ndarray:
        return _upright(_decode_jpeg(self._data, self.name, least_scale), self._orientation)


def open_picture(data: bytes, name: str, decoding: Decoding = RGB) -> Picture:
    """Open an encoded image; decodes it at once unless it is a JPEG."""
    try:
        if data.startswith(JPEG_START) and decoding == RGB:
            with suppress(ValueError):
                return JpegPicture(name, data)
        return Picture(name, to_levels(_decoded(data, decoding.channels), decoding))
    except BrokenImage as error:
        raise BrokenImage(f"{name}: {error}") from error


def picture_of(source: Source, index: int, decoding: Decoding = RGB) -> Picture:
    """Open one image of a source."""
    return open_picture(source.read(index), source.name(index), decoding)


def _decode_jpeg(data: bytes, name: str, least_scale: float) -> np.ndarray:
    """RGB pixels at 1, 1/2, 1/4 or 1/8 of the full size (the scales that cost less), at least `least_scale`."""
    import simplejpeg

    factor = next(factor for factor in (8, 4, 2, 1) if factor == 1 or least_scale * factor <= 1)
    try:
        if factor == 1:
            return simplejpeg.decode_jpeg(data, "RGB")
        height, width, *_ = _header(data)
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor), min_factor=factor
        )
    except ValueError:
        pass  # a fault that a more patient decoder may see past
    with _faults_named(f"{name}: "), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        return np.array(opened.convert("RGB"))


@contextmanager
def _faults_named(start: str = "") -> Iterator[None]:
    """A decoder fed with anything raises anything; only foreign code belongs in here."""
    try:
        yield
    except BrokenImage:
        raise
    except Exception as error:
        raise BrokenImage(f"{start}{str(error) or type(error).__name__}") from error


def _orientation(data: bytes) -> int:
    """1 … 8 from the EXIF part; most files have none, and looking closely costs more than decoding a small one."""
    if b"Exif\0\0" not in data[: 2**16]:
        return 1
    with _faults_named(), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        return opened.getexif().get(ORIENTATION, 1)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the eight EXIF orientations."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.swapaxes(0, 1)
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(pixels)
    return pixels


def _decoded(data: bytes, channels: int) -> np.ndarray:
    """A file's values: RGB as a person sees it, or deep or many-channelled ones as they are."""
    with _faults_named():
        if data.startswith(ARRAY_START):
            return np.load(io.BytesIO(data), allow_pickle=False)
        if channels != 3 and data.startswith(TIFF_STARTS):
            return _read_tiff(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            opened.seek(0)
            opened.load()
            image = ImageOps.exif_transpose(opened)
            return np.array(image if image.mode in DEEP_MODES or channels != 3 else _over_white(image))


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _read_tiff(data: bytes) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise BrokenImage("TIFF with several channels needs tifffile: pip install otherview[tiff]") from error
    return tifffile.imread(io.BytesIO(data))
