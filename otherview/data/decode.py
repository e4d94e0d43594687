"""From bytes to values as a person would see them: every kind of file but the quick way of JPEG.

Alpha lies over white, palettes and CMYK become RGB, of several pages the first is taken, EXIF rotation is undone. Foreign
decoders may raise anything; here it becomes a BrokenImage, and nothing but foreign code stands inside that guard.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from otherview.data import dicom, nifti, tiff
from otherview.data.source import printable
from otherview.data.tiff import ORIENTATION
from otherview.data.values import PACKED, Values, unpacked
from otherview.errors import BrokenImage, WrongRequest

ARRAY_START = b"\x93NUMPY"
MOST_PIXELS = 178_956_970
"""Of one image; Pillow's own limit."""
DEEP_MODES = frozenset(("I;16", "I;16B", "I;16L", "I;16N", "I", "F"))

HEIF = find_spec("pi_heif") is not None
"""Whether photos of phones can be read; the package decodes and nothing else."""
if HEIF:
    from pi_heif import register_heif_opener  # pyright: ignore[reportMissingTypeStubs]

    register_heif_opener(thumbnails=False)
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
        "HEIF",
    )
    if name in Image.OPEN  # what Pillow was built with
)
"""What is read whatever a file is called. Formats that Pillow hands to other programs (EPS) are not among them."""


@contextmanager
def faults_named(start: str = "") -> Iterator[None]:
    """A decoder fed with anything raises anything; only foreign code belongs in here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a decoder's remarks on one file of a million
            yield
    except (BrokenImage, WrongRequest):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(f"{start}no image of a kind that is read") from error
    except Exception as error:
        raise BrokenImage(f"{start}{printable(str(error)) or type(error).__name__}") from error


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
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


def stored_size(file: Path) -> tuple[tuple[int, int], int]:
    """Width and height as a file has them, and the EXIF orientation 1 … 8, from its header; raises BrokenImage."""
    if not file.is_file():  # a pipe would be waited for
        raise BrokenImage(f"{file.name}: no file")
    with faults_named(), file.open("rb") as stream, Image.open(stream, formats=FORMATS) as opened:
        return opened.size, int(opened.getexif().get(ORIENTATION, 1) or 1)


def seen_size(file: Path) -> tuple[int, int]:
    """Height and width of an image as it is seen, from its header; raises BrokenImage."""
    (width, height), orientation = stored_size(file)
    return (width, height) if orientation >= 5 else (height, width)


def decode_values(data: bytes, channels: int) -> Values:
    """A file's values: RGB as a person sees it, or deep or many-channelled ones as they are."""
    with faults_named():
        if data.startswith(ARRAY_START):
            return Values(np.load(io.BytesIO(data), allow_pickle=False))
        if data.startswith(PACKED):
            return _without_a_fourth(unpacked(data), channels)
        if dicom.is_dicom(data):
            return dicom.read_dicom(data)
        if nifti.is_nifti(data):
            return nifti.read_nifti(data)
        is_tiff = data.startswith(tiff.STARTS)
        if is_tiff and tiff.INSTALLED and (read := tiff.read_tiff(data, channels, most_values=4 * MOST_PIXELS)):
            values, orientation = read
            return values._replace(array=upright(values.array, orientation))
        with _opened(data, is_tiff=is_tiff) as opened:
            opened.seek(0)
            kind, orientation = opened.format or "", _orientation(data, opened)
            if is_tiff and not tiff.INSTALLED and (plain := tiff.plain_values(opened, channels)) is not None:
                return plain._replace(array=upright(plain.array, orientation))
            if (deep := _deep_colour(data, opened)) is not None:
                return Values(upright(deep, orientation), kind)
            opened.load()
            return Values(_as_seen(ImageOps.exif_transpose(opened), channels), kind)


def _without_a_fourth(values: Values, channels: int) -> Values:
    """Of a window of four channels where colours were asked for, these (data/tiff.py)."""
    extra = channels == 3 and values.array.ndim == 3 and values.array.shape[2] == 4
    return values._replace(array=values.array[..., :3]) if extra else values


def _orientation(data: bytes, opened: Image.Image) -> int:
    """1 … 8; Pillow decodes a whole PNG to look for it, so a PNG without the chunk is not asked."""
    if opened.format == "PNG" and b"eXIf" not in data:
        return 1
    return opened.getexif().get(ORIENTATION, 1)


def _as_seen(image: Image.Image, channels: int) -> np.ndarray:
    """Deep gray as it is, else colours or gray over white."""
    if image.mode in DEEP_MODES:
        return np.array(image)
    if channels == 3:
        return np.array(image if image.mode == "L" and "transparency" not in image.info else _over_white(image))
    return np.array(_over_white(image).convert("L") if channels == 1 and image.mode != "L" else image)


def _opened(data: bytes, *, is_tiff: bool) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if is_tiff and not tiff.INSTALLED:
            raise BrokenImage(tiff.UNREAD) from error
        raise


def _deep_colour(data: bytes, opened: Image.Image) -> np.ndarray | None:
    """16-bit colour, of which Pillow keeps the upper half only: uint16 [H, W, 3], alpha over white; None for other images."""
    if opened.format == "PNG":
        deep = len(data) > 25 and data[24] == 16 and data[25] in (2, 6)
    else:  # where tifffile is missing
        bits = opened.tag_v2.get(tiff.BITS, ()) if opened.format == "TIFF" else ()  # pyright: ignore[reportAttributeAccessIssue]
        deep = len(bits) >= 3 and set(bits) == {16}
    if not deep:
        return None
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint16:
        return None
    colour = pixels[..., 2::-1]
    if pixels.shape[2] < 4:
        return np.ascontiguousarray(colour)
    alpha = pixels[..., 3:].astype(np.float32) / 65535
    return np.rint(colour * alpha + 65535 * (1 - alpha)).astype(np.uint16)


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
