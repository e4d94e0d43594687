"""Images per second of one core for files as laboratories have them, beside the plain library that decodes them alone.

    bench_kinds(rounds=5)["PNG 16 bits"]         # {"ours": 210.0, "decode": 480.0, "to_decode": 0.44, "to_eight_bits": 0.62}

Gray clouds, 512×512, drawn once and written as 8 and 16 bits, as a scan in Hounsfield units with its window, and as one file
in tiles of JPEG of which windows of 512 px are cut. Ours makes two views at 224 px; decoding alone makes none.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from otherview.bench.loader import GRID, KEPT_UNUSED, SIZE, Held, keep_pages
from otherview.data.decode import FORMATS
from otherview.data.image import RGB
from otherview.data.loader import SampleMaker
from otherview.data.ranges import with_ranges
from otherview.data.source import Source
from otherview.data.spec import open_source
from otherview.errors import WrongRequest
from otherview.views.settings import ViewSettings
from otherview.views.transforms import PairViews

IMAGES, SIDE = 16, 512
EIGHT_BITS = {"PNG 16 bits": "PNG 8 bits", "TIFF 16 bits": "TIFF 8 bits"}


def clouds(seed: int) -> np.ndarray:
    """[512, 512] in [0, 1]: large and small blobs with fine grain."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(size=(side, side)).astype(np.float32), (SIDE, SIDE)) * 0.25 / side**0.4
        for side in (3, 8, 24, 80, 250)
    ]
    return np.clip(0.5 + sum(layers) + rng.normal(scale=0.01, size=(SIDE, SIDE)), 0, 1)


def bench_kinds(*, rounds: int, advance: Callable[[], None] = lambda: None) -> dict[str, dict[str, float]]:
    """Medians over rounds in which every kind has its turn; one core, no workers. Raises WrongRequest without the extras."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_pages(KEPT_UNUSED)
    with tempfile.TemporaryDirectory() as folder:
        kinds = _kinds(Path(folder))
        makers = {name: _maker(source) for name, (source, _) in kinds.items()}
        rates: dict[str, dict[str, list[float]]] = {name: {"ours": [], "decode": []} for name in kinds}
        for turn in range(rounds):
            for name, (source, plain) in kinds.items():
                rates[name]["ours"].append(_rate(partial(_sample, makers[name], turn)))
                rates[name]["decode"].append(_rate(partial(plain, source)))
            advance()
    found = {name: _summary(both["ours"], both["decode"]) for name, both in rates.items()}
    for name, eight in EIGHT_BITS.items():
        found[name]["to_eight_bits"] = _ratio(rates[name]["ours"], rates[eight]["ours"])
    return found


def _kinds(folder: Path) -> dict[str, tuple[Source, Callable[[Source, int], Any]]]:
    """Sources, and how the plain library decodes an image of each."""
    try:
        import pydicom
        import tifffile
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise WrongRequest(f"--kinds needs {error.name}: pip install 'otherview[tiff,dicom]'") from error

    pictures = [clouds(seed) for seed in range(IMAGES)]
    eight = [np.rint(picture * 255).astype(np.uint8) for picture in pictures]
    deep = [np.rint(picture * 65535).astype(np.uint16) for picture in pictures]

    def by_pillow(source: Source, index: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(source.read(index)), formats=FORMATS))

    def by_tifffile(source: Source, index: int) -> np.ndarray:
        return tifffile.imread(io.BytesIO(source.read(index)))

    def by_pydicom(source: Source, index: int) -> np.ndarray:
        return pixel_array(pydicom.dcmread(io.BytesIO(source.read(index))), index=0)

    tiles, page = _in_tiles(folder, eight)

    def window(_: Source, index: int) -> np.ndarray:
        page.parent.filehandle.seek(page.dataoffsets[index])
        data = page.parent.filehandle.read(page.databytecounts[index])
        return page.decode(data, index, jpegtables=page.jpegtables)[0]

    return {
        "PNG 8 bits": (Written([_png(one) for one in eight]), by_pillow),
        "PNG 16 bits": (Written([_png(one) for one in deep]), by_pillow),
        "TIFF 8 bits": (Written([_tiff(one) for one in eight]), by_tifffile),
        "TIFF 16 bits": (Written([_tiff(one) for one in deep]), by_tifffile),
        "DICOM": (Written([_scan(one) for one in pictures]), by_pydicom),
        "tiles of JPEG": (tiles, window),
    }


class Written(Held):
    """Encoded images as they were written."""

    def __init__(self, content: Sequence[bytes]) -> None:
        self.content = list(content)


def _png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def _tiff(pixels: np.ndarray) -> bytes:
    import tifffile

    written = io.BytesIO()
    tifffile.imwrite(written, pixels, compression="deflate", predictor=True)
    return written.getvalue()


def _scan(picture: np.ndarray) -> bytes:
    """Hounsfield units from −1000 to 3000 with a window."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    scan, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan.file_meta = meta
    scan.SOPClassUID, scan.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    scan.Rows, scan.Columns = picture.shape
    scan.SamplesPerPixel, scan.PhotometricInterpretation = 1, "MONOCHROME2"
    scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 16, 16, 15, 1
    scan.RescaleSlope, scan.RescaleIntercept, scan.WindowCenter, scan.WindowWidth = 1, -1000, 500, 3000
    scan.PixelData = np.rint(picture * 4000).astype("<i2").tobytes()
    scan["PixelData"].VR = "OW"
    written = io.BytesIO()
    scan.save_as(written, enforce_file_format=True)
    return written.getvalue()


def _in_tiles(folder: Path, pictures: Sequence[np.ndarray]) -> tuple[Source, Any]:
    """All pictures as the tiles of one file, and its page."""
    import tifffile

    side = IMAGES // 4
    rows = [np.hstack(pictures[start : start + side]) for start in range(0, IMAGES, side)]
    whole = np.vstack(rows)[..., None].repeat(3, axis=2)
    path = folder / "whole.tif"
    tifffile.imwrite(
        path, whole, tile=(SIDE, SIDE), photometric="rgb", compression="jpeg", compressionargs={"level": 90}
    )
    return open_source(f"tiles:{path.parent}@{SIDE}"), tifffile.TiffFile(path).pages[0]


def _maker(source: Source) -> SampleMaker:
    return SampleMaker(source, PairViews(ViewSettings(), SIZE, GRID), 0, with_ranges(source, RGB))


def _sample(maker: SampleMaker, turn: int, index: int) -> Any:
    return maker[(turn, index)]


def _rate(make: Callable[[int], Any]) -> float:
    began = time.perf_counter()
    for index in range(IMAGES):
        make(index)
    return IMAGES / (time.perf_counter() - began)


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 2)


def _summary(ours: Sequence[float], decode: Sequence[float]) -> dict[str, float]:
    return {
        "ours": round(statistics.median(ours), 1),
        "decode": round(statistics.median(decode), 1),
        "to_decode": _ratio(ours, decode),
    }
