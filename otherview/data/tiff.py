"""TIFF as laboratories, microscopes and satellites write it: which values are channels and which are alpha, as the file says.

    values, orientation = read_tiff(data, channels=5)     # None: a picture, which Pillow shows as it is meant

- A picture is what Pillow has colours for: palettes, CMYK, LAB, fax, JPEG inside, 8 bits with three colours or one.
- A page's samples are its channels. What follows the colours is alpha only where the file says so, and lies over white then;
  else it is a channel. Where as many channels as colours are asked for, a single further one (near infrared) is left out.
- Pages of one sample are channels where OME's metadata say so, or where there are as many as were asked for and these are not
  three; else they are frames, and the first counts.
"""

import io
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from otherview.data.values import Values
from otherview.errors import BrokenImage

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS, PHOTOMETRIC, SAMPLES, EXTRA, FORMAT, ORIENTATION, LEAST, LARGEST, NODATA = (
    258,
    262,
    277,
    338,
    339,
    274,
    340,
    341,
    42113,
)
PICTURES = frozenset((3, 5, 6, 8, 9, 10))
"""Photometric interpretations of a palette, CMYK, YCbCr and LAB."""
ALPHA = frozenset((1, 2))
NEEDED = "pip install 'otherview[tiff]'"
UNREAD = f"a TIFF of this kind needs tifffile: {NEEDED}"
INSTALLED = find_spec("tifffile") is not None
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its remarks on one file of a million


def read_tiff(data: bytes, channels: int, *, most_values: int) -> tuple[Values, int] | None:
    """What a file holds, and the orientation in which it is stored, 1 … 8; None for a picture.

    Raises BrokenImage for more than `most_values`, and where a package is missing that decompresses them.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        if _is_picture(page, channels, pages=len(file.pages)):
            return None
        series = file.series[0]
        stacked = series.axes == "CYX" or (len(file.pages) == channels not in (1, 3) and page.samplesperpixel == 1)  # pyright: ignore
        chosen = series if stacked else page
        if chosen.size > most_values:
            raise BrokenImage(f"its shape is {chosen.shape}: it is taken for a decompression bomb")
        try:
            values = chosen.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise BrokenImage(f"its {page.compression.name} compression needs imagecodecs: {NEEDED}") from error  # pyright: ignore
        values = np.moveaxis(values, 0, -1) if stacked else _channels(_samples_last(values, page), page, channels)
        orientation: Any = page.tags.get(ORIENTATION)  # pyright: ignore
        return values_of(values, page), 1 if orientation is None else int(orientation.value)


def values_of(array: np.ndarray, page: Any, *, checked: bool = True) -> Values:
    """The values of a page with what its tags say of black and white, and of pixels without a value.

    A range that does not hold the values is not believed, if that is `checked`; parts of one page are not told apart by it.
    """
    array = _without_nodata(array, page.tags.get(NODATA))
    tags = {code: tag.value for code in (LEAST, LARGEST) if (tag := page.tags.get(code)) is not None}
    return _with_range(array, tags, page.bitspersample, checked=checked)


def _without_nodata(array: np.ndarray, tag: Any) -> np.ndarray:
    """GDAL's number for "no value": NaN among floats, else the least value that the image has."""
    try:
        nodata = float(str(tag.value).strip("\0 "))
    except (AttributeError, ValueError):  # there is no tag, or no number in it
        return array
    nothing = array == np.asarray(nodata).astype(array.dtype)
    if np.isnan(nodata) or not nothing.any():
        return array
    least = np.nan if array.dtype.kind == "f" else 0 if nothing.all() else array[~nothing].min()
    return np.where(nothing, np.asarray(least, array.dtype), array)


def _with_range(array: np.ndarray, tags: Mapping[int, Any], bits: Any, *, checked: bool = True) -> Values:
    """Black and white are packed bits, or the least and largest sample that a file allows for all channels."""
    if array.dtype.kind == "u" and isinstance(bits, int) and 1 < bits < 8 * array.dtype.itemsize:
        packed = 0.0, 2.0**bits - 1
        return Values(array, "TIFF", packed, packed)
    try:
        low, high = (float(np.unique(tags[code]).item()) for code in (LEAST, LARGEST))
    except (KeyError, ValueError, TypeError):  # not there, or different for every channel
        return Values(array, "TIFF")
    fits = low < high and (not checked or (low <= np.nanmin(array) and np.nanmax(array) <= high))
    return Values(array, "TIFF", (low, high) if fits else None)


def _is_picture(page: Any, channels: int, *, pages: int) -> bool:
    """Whether Pillow shows it as it is meant: three colours asked for, and nothing that it would drop or guess."""
    if page.photometric in PICTURES or page.bitspersample == 1:
        return True
    eight = page.dtype == np.uint8 and page.bitspersample == 8
    extra = [int(one) for one in page.extrasamples]
    if page.samplesperpixel == 1:
        return eight and (channels == 3 or pages == 1) and pages != channels
    return eight and channels == 3 and page.samplesperpixel == 3 + len(extra) and set(extra) <= ALPHA and len(extra) < 2


def _samples_last(values: np.ndarray, page: Any) -> np.ndarray:
    return np.moveaxis(values, 0, -1) if page.axes == "SYX" else values


def _channels(values: np.ndarray, page: Any, channels: int) -> np.ndarray:
    """[H, W, C] with colours first, alpha laid over white, other samples kept where they were asked for."""
    if page.photometric == 0 and np.issubdtype(values.dtype, np.unsignedinteger):
        values = np.iinfo(values.dtype).max - values
    extra = [int(one) for one in page.extrasamples]
    if values.ndim == 2 or not extra:
        return values
    colours = values.shape[-1] - len(extra)
    alpha = next((colours + place for place, kind in enumerate(extra) if kind in ALPHA), None)
    if alpha is not None:
        values = np.delete(_over_white(values, alpha, colours), alpha, axis=-1)
    return values[..., :colours] if channels == colours and values.shape[-1] == colours + 1 else values


def _over_white(values: np.ndarray, alpha: int, colours: int) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.unsignedinteger):
        return values
    most = np.iinfo(values.dtype).max
    share = values[..., alpha, None].astype(np.float64) / most
    laid = np.rint(values[..., :colours] * share + most * (1 - share)).astype(values.dtype)
    return np.concatenate([laid, values[..., colours:]], axis=-1)


def with_alpha_laid(values: np.ndarray, page: Any) -> np.ndarray:
    """A page's values [H, W, S] with alpha over white and every other sample kept."""
    return _channels(values, page, channels=0)


def pages_of(file: Any) -> int:
    """How many frames a file has: pages that are not channels, nor levels of a pyramid."""
    import tifffile

    with tifffile.TiffFile(file) as opened:
        series = opened.series[0]
        return 1 if series.axes in ("CYX", "YX", "YXS", "SYX") and len(opened.series) == 1 else len(opened.pages)


def read_page(data: bytes, frame: int) -> Values:
    """One page of several, its samples as channels."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        page: Any = opened.pages[frame]
        values = page.asarray()
        return values_of(with_alpha_laid(_samples_last(values, page), page), page)


def plain_values(opened: Image.Image, channels: int) -> Values | None:
    """Without tifffile: values of one deep channel in the file's own type, or None for what Pillow shows as it is meant.

    Raises BrokenImage for everything that Pillow would drop or guess.
    """
    tags: Any = opened.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    samples, bits = tags.get(SAMPLES, 1), set(tags.get(BITS, (1,)))
    colours = samples in (1, 3) or (samples < 5 and set(tags.get(EXTRA, (0,))) <= ALPHA)
    if tags.get(PHOTOMETRIC) in PICTURES or (channels in (1, 3) and colours and (bits <= {1, 8} or samples > 1)):
        return None
    if samples > 1 or channels not in (1, 3):
        raise BrokenImage(UNREAD)
    signed = tags.get(FORMAT, (1,))[0] == 2 and bits == {16}
    values = np.array(opened).astype(np.int16) if signed else np.array(opened)
    return _with_range(values, tags, max(bits))


def kind_of(data: bytes) -> str:
    """In words: 'TIFF uint16 ×5', 'TIFF float32 with NaN'."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        count = len(file.pages) if file.series[0].axes == "CYX" else page.samplesperpixel
        packed = f" of {page.bitspersample} bits" if page.bitspersample != 8 * page.dtype.itemsize else ""
        nan = " with NaN" if page.dtype.kind == "f" and np.isnan(page.asarray()).any() else ""
        return f"TIFF {page.dtype}{packed}{f' ×{count}' if count > 1 else ''}{nan}"
