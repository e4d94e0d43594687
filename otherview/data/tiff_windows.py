"""Windows of huge TIFF files: only the tiles, or strips, that a window needs are read and decoded.

    with Canvas(Path("slide.svs")) as slide:
        slide.sizes                                   # [(40000, 40000), (10000, 10000), …], one a level
        values = slide.window(0, top=512, left=1024, height=224, width=224)

Levels are those of a pyramid, 0 the finest. Any layout that tifffile can decode: whole slides, GeoTIFF, OME-TIFF with
channels as pages. Memory is a few tiles.
"""

from pathlib import Path
from typing import Any

import numpy as np

from otherview.data import tiff
from otherview.data.values import Values
from otherview.errors import BrokenImage

JPEGS = frozenset((6, 7, 34892, 33007))
"""Compressions whose colours tifffile turns into red, green and blue."""


class Canvas:
    """An opened file; raises BrokenImage for one whose windows cannot be read by themselves."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self.file = tifffile.TiffFile(path)
        self.levels: list[Any] = list(self.file.series[0].levels)
        page = self.levels[0].pages[0]
        colours = page.photometric in (0, 1, 2, 6) and (page.photometric != 6 or int(page.compression) in JPEGS)
        if not colours or self.levels[0].axes not in ("YX", "YXS", "SYX", "CYX") or page.bitspersample % 8:
            self.close()
            raise BrokenImage("its windows cannot be read by themselves")

    def __enter__(self) -> "Canvas":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every level."""
        return [(level.pages[0].imagelength, level.pages[0].imagewidth) for level in self.levels]

    def window(self, level: int, *, top: int, left: int, height: int, width: int) -> Values:
        """Values [H, W] or [H, W, C]; alpha lies over white. The window must lie inside."""
        pages = self.levels[level].pages if self.levels[level].axes == "CYX" else self.levels[level].pages[:1]
        layers = [_cut(page, top, left, height, width) for page in pages]
        values = np.stack(layers, axis=-1) if len(layers) > 1 else layers[0]
        page = self.levels[0].pages[0]
        return tiff.values_of(tiff.with_alpha_laid(values, page), page)


def _cut(page: Any, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A window of one page: [H, W] or [H, W, S]."""
    samples = page.samplesperpixel
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    across, down = -(-page.imagewidth // columns), -(-page.imagelength // rows)
    apart = samples > 1 and page.planarconfig == 2
    out = np.zeros((height, width, samples), page.dtype)
    for plane in range(samples) if apart else (0,):
        for row in range(top // rows, -(-(top + height) // rows)):
            for column in range(left // columns, -(-(left + width) // columns)):
                segment = _segment(page, (plane * down + row) * across + column)
                if segment is None:
                    continue  # never written: nothing is there
                first, start = row * rows, column * columns
                upper, lower = max(top, first), min(top + height, first + segment.shape[0])
                near, far = max(left, start), min(left + width, start + segment.shape[1])
                part = segment[upper - first : lower - first, near - start : far - start]
                into = out[upper - top : lower - top, near - left : far - left]
                into[..., plane : plane + 1 if apart else samples] = part
    return out if samples > 1 else out[..., 0]


def _segment(page: Any, index: int) -> np.ndarray | None:
    """One decoded tile or strip [H, W, S]; None where the file has none."""
    count = page.databytecounts[index]
    if not count:
        return None
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index])
    decoded = page.decode(file.read(count), index, jpegtables=page.jpegtables)[0]
    return None if decoded is None else decoded[0]
