"""Windows of huge TIFF files: only the tiles, or strips, that a window needs are read and decoded.

    with Canvas(Path("slide.svs")) as slide:
        slide.sizes                                   # [(40000, 40000), (10000, 10000), …], one a level
        values = slide.window(0, top=512, left=1024, height=224, width=224)

Levels are those of a pyramid, 0 the finest. Any layout that tifffile can decode: whole slides, GeoTIFF, OME-TIFF with
channels as pages. Memory is a few tiles.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from otherview.data import tiff
from otherview.data.values import Values
from otherview.errors import BrokenImage

JPEGS = frozenset((6, 7, 34892, 33007))
"""Compressions whose colours tifffile turns into red, green and blue."""


MOST_SEGMENT, MOST_HELD = 2**26, 2**24
"""Bytes of one decoded tile or strip, more than which a window is no small part of; and of those that are kept."""


class Canvas:
    """An opened file; raises BrokenImage for one whose windows cannot be read by themselves."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self.file = tifffile.TiffFile(path)
        self._held: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        try:
            self.levels: list[Any] = list(self.file.series[0].levels)
            self.page = self.levels[0].keyframe
            apart = not _in_windows(self.levels[0], self.page)
        except Exception:
            self.close()
            raise
        if apart:
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
        return [(level.keyframe.imagelength, level.keyframe.imagewidth) for level in self.levels]

    def window(self, level: int, *, top: int, left: int, height: int, width: int) -> Values:
        """Values [H, W] or [H, W, C]; alpha lies over white. The window must lie inside."""
        there = self.levels[level]
        pages = range(len(there.pages)) if there.axes == "CYX" else range(1)
        layers = [self._cut(there, number, (top, left, height, width)) for number in pages]
        values = np.stack(layers, axis=-1) if len(layers) > 1 else layers[0]
        return tiff.values_of(tiff.with_alpha_laid(values, self.page), self.page, checked=False)

    def _cut(self, level: Any, number: int, window: tuple[int, int, int, int]) -> np.ndarray:
        """A window of one page: [H, W] or [H, W, S]."""
        (top, left, height, width), page = window, level.keyframe
        samples, (rows, columns) = page.samplesperpixel, _segment_size(page)
        across, down = -(-page.imagewidth // columns), -(-page.imagelength // rows)
        apart = samples > 1 and page.planarconfig == 2
        out = np.zeros((height, width, samples), page.dtype)
        for plane in range(samples) if apart else (0,):
            for row in range(top // rows, -(-(top + height) // rows)):
                for column in range(left // columns, -(-(left + width) // columns)):
                    segment = self._segment(level.pages[number], page, (plane * down + row) * across + column)
                    if segment is None:
                        continue  # never written: nothing is there
                    first, start = row * rows, column * columns
                    upper, lower = max(top, first), min(top + height, first + segment.shape[0])
                    near, far = max(left, start), min(left + width, start + segment.shape[1])
                    part = segment[upper - first : lower - first, near - start : far - start]
                    into = out[upper - top : lower - top, near - left : far - left]
                    into[..., plane : plane + 1 if apart else samples] = part
        return out if samples > 1 else out[..., 0]

    def _segment(self, page: Any, keyframe: Any, index: int) -> np.ndarray | None:
        """One decoded tile or strip [H, W, S], which neighbouring windows ask for again; None where the file has none."""
        count, offset = page.databytecounts[index], page.dataoffsets[index]
        if not count:
            return None
        if (offset, index) not in self._held:
            self.file.filehandle.seek(offset)
            decoded = keyframe.decode(self.file.filehandle.read(count), index, jpegtables=keyframe.jpegtables)[0]
            if decoded is None:
                return None
            self._held[offset, index] = decoded[0]
            while sum(one.nbytes for one in self._held.values()) > MOST_HELD and len(self._held) > 1:
                self._held.popitem(last=False)
        self._held.move_to_end((offset, index))
        return self._held[offset, index]


def _segment_size(page: Any) -> tuple[int, int]:
    return (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)


def _in_windows(series: Any, page: Any) -> bool:
    """Whether windows are parts of it that can be read alone, and lie as a person sees them."""
    colours = page.photometric in (0, 1, 2, 6) and (page.photometric != 6 or int(page.compression) in JPEGS)
    rows, columns = _segment_size(page)
    small = min(rows, page.imagelength) * columns * page.samplesperpixel * page.dtype.itemsize <= MOST_SEGMENT
    upright = page.tags.get(tiff.ORIENTATION) is None or page.tags[tiff.ORIENTATION].value in (0, 1)
    whole_bytes = isinstance(page.bitspersample, int) and page.bitspersample % 8 == 0
    return bool(colours and small and upright and whole_bytes and series.axes in ("YX", "YXS", "SYX", "CYX"))
