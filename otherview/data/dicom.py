"""DICOM: the pixels of a frame as a person is meant to see them, and nothing of the patient.

    values = read_dicom(data)                # the middle frame of several
    values = read_dicom(data, frame=3)

Only the elements that say what pixels mean are parsed at all, and no message of the library is handed on, since it may quote
an element. Stored values become real ones (Hounsfield units, say) by slope and intercept. Black and white are the file's
window, else the bits that are stored; MONOCHROME1, where low is bright, is turned over; padding is black.
Source: DICOM PS3.3 C.7.6.3 (image pixel), C.11.1 (rescale), C.11.2 (window), C.7.6.16 (functional groups).
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from otherview.data.settings import Range
from otherview.data.values import Values, extremes
from otherview.errors import BrokenImage

START = b"DICM"
"""After a preamble of 128 bytes."""
INSTALLED = find_spec("pydicom") is not None
NEEDED = "pip install 'otherview[dicom]'"
WANTED = (
    "SpecificCharacterSet", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "NumberOfFrames", "PixelData", "FloatPixelData",
    "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


def is_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM files do."""
    return data[128:132] == START


def frames_of(data: bytes) -> int:
    """How many frames a file has; raises BrokenImage where it has no pixels."""
    with _nothing_quoted():
        return _count(_parsed(data))


def read_dicom(data: bytes, frame: int | None = None) -> Values:
    """One frame, the middle one by default: [H, W], or [H, W, 3] for colours; raises BrokenImage."""
    with _nothing_quoted():
        found = _parsed(data)
        count = _count(found)
        frame = count // 2 if frame is None else frame
        if not 0 <= frame < count:
            raise BrokenImage(f"it has {count} frames, and frame {frame} was asked for")
        return _read(found, frame)


@contextmanager
def _nothing_quoted() -> Iterator[None]:
    """No message of the library is handed on."""
    if not INSTALLED:
        raise BrokenImage(f"DICOM needs pydicom: {NEEDED}")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BrokenImage:
        raise
    except Exception as error:
        raise BrokenImage(f"a DICOM file that cannot be read ({type(error).__name__})") from None


def _parsed(data: bytes) -> Any:
    import pydicom

    found = pydicom.dcmread(io.BytesIO(data), specific_tags=list(WANTED))
    if not any(name in found for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise BrokenImage("a DICOM file without pixels (a report, a plan, a directory)")
    return found


def _count(found: Any) -> int:
    return max(1, int(found.get("NumberOfFrames") or 1))


def _read(found: Any, frame: int) -> Values:
    from pydicom.pixels.processing import apply_color_lut

    array = _stored(found, frame)
    kind = found.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        colours = apply_color_lut(array, found)
        return Values(colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8), "DICOM")
    if array.ndim == 3:
        bits = int(found.BitsStored)
        said = (0.0, 2.0**bits - 1) if bits < found.BitsAllocated else None
        return Values(array, "DICOM", said, said)
    return _gray(found, frame, array, inverted=kind == "MONOCHROME1")


def _stored(found: Any, frame: int) -> np.ndarray:
    """A frame's stored values, by pydicom's decoders, or imagecodecs for JPEG of twelve bits, which none of them has."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import JPEGExtended12Bit

    try:
        return pixel_array(found, index=frame)
    except (RuntimeError, NotImplementedError):
        syntax = found.file_meta.TransferSyntaxUID
        if syntax != JPEGExtended12Bit or find_spec("imagecodecs") is None:
            raise BrokenImage(
                f"its pixels ({syntax.name}) could not be decoded: {NEEDED} brings the decoders"
            ) from None
    import imagecodecs

    return imagecodecs.jpeg_decode(get_frame(found.PixelData, frame, number_of_frames=_count(found)))


def _gray(found: Any, frame: int, stored: np.ndarray, *, inverted: bool) -> Values:
    """Real values, their window and their full range."""
    padding = _padding(found, stored)
    values, whole = _real(found, frame, stored)
    packed = stored.dtype.kind == "u" and int(found.BitsStored) < found.BitsAllocated
    said = _window(found, frame) or (whole if packed else None)
    if inverted:
        low, high = said or whole or extremes(values)
        whole = None if whole is None else (low + high - whole[1], low + high - whole[0])
        values = _in_type(low + high - values.astype(np.float64), whole if values.dtype.kind in "ui" else None)
    if padding is not None and padding.any() and not padding.all():
        black = values[~padding].min() if said is None else said[0]
        if values.dtype.kind in "ui":
            black = np.clip(np.floor(black), np.iinfo(values.dtype).min, np.iinfo(values.dtype).max)
        values = np.where(padding, np.asarray(black).astype(values.dtype), values)
    return Values(values, "DICOM", said, whole)


def _padding(found: Any, stored: np.ndarray) -> np.ndarray | None:
    """Where there is no image, by the stored values."""
    value = found.get("PixelPaddingValue")
    if value is None:
        return None
    value = np.asarray(int(value)).astype(stored.dtype)
    limit = found.get("PixelPaddingRangeLimit")
    limit = value if limit is None else np.asarray(int(limit)).astype(stored.dtype)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def _real(found: Any, frame: int, stored: np.ndarray) -> tuple[np.ndarray, Range | None]:
    """Values by table, or by slope and intercept, and what the stored bits allow; None where these say nothing."""
    from pydicom.pixels.processing import apply_modality_lut

    if "ModalityLUTSequence" in found:
        return np.asarray(apply_modality_lut(stored, found)), None
    slope = float(_said(found, frame, "PixelValueTransformationSequence", "RescaleSlope") or 1)
    shift = float(_said(found, frame, "PixelValueTransformationSequence", "RescaleIntercept") or 0)
    if stored.dtype.kind == "f":
        return (stored * slope + shift).astype(np.float32), None
    bits, signed = int(found.BitsStored), stored.dtype.kind == "i"
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1]) * slope + shift
    whole = float(ends.min()), float(ends.max())
    if slope == 1 and shift == 0:
        return stored, whole
    real = stored * slope + shift
    return _in_type(real, whole if slope.is_integer() and shift.is_integer() else None), whole


def _in_type(values: np.ndarray, whole: Range | None) -> np.ndarray:
    """Whole numbers as int16 or int32, by what may occur in any file of this kind; others as float32."""
    if whole is None:
        return values.astype(np.float32)
    small = whole[0] >= -(2**15) and whole[1] < 2**15
    return np.rint(values).astype(np.int16 if small else np.int32 if max(map(abs, whole)) < 2**31 else np.int64)


def _window(found: Any, frame: int) -> Range | None:
    """Black and white by centre and width, the first of several; the linear function of PS3.3 C.11.2.1.2."""
    centre, width = (_said(found, frame, "FrameVOILUTSequence", name) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    centre, width = float(centre), float(width)
    if width < 1 or not np.isfinite([centre, width]).all():
        return None
    exact = _said(found, frame, "FrameVOILUTSequence", "VOILUTFunction") == "LINEAR_EXACT"
    middle, span = (centre, width) if exact else (centre - 0.5, max(width - 1, 1e-3))
    return middle - span / 2, middle + span / 2


def _said(found: Any, frame: int, group: str, name: str) -> Any:
    """An element of the file, or of a frame's functional groups, or of those that all frames share."""
    value = found.get(name)
    groups = found.get("PerFrameFunctionalGroupsSequence") or []
    for functional in (*groups[frame : frame + 1], *(found.get("SharedFunctionalGroupsSequence") or [])[:1]):
        inner = functional.get(group)
        value = inner[0].get(name) if value is None and inner else value
    return value[0] if value is not None and not isinstance(value, str | float | int) and len(value) else value
