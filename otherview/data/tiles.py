"""tiles:SPEC@SIZE[:STRIDE][:LEVEL]: windows of huge images, each an image of its own.

    source = open_source("tiles:slides/@512")            # beside each other
    source = open_source("tiles:scene.tif@512:256:1")    # every 256 px, on the second level of the pyramid

Windows are square, every STRIDE pixels (default SIZE), the last ones at the edge; an image smaller than a window is one. Of
TIFF files on disk only what a window needs is read; other images are decoded whole. Where the windows lie is looked up
once and kept in the cache.

A window is left out where it shows nothing but ground: where the standard deviation of every channel is less than 2 % of what
the image's values span, or where more than half of it has no value. A pyramid's coarser level decides, where there is one.
"""

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from otherview.data import tiff
from otherview.data.decode import decode_values, faults_named
from otherview.data.index import NO_LABEL, Parts, Table, TableWriter
from otherview.data.index_cache import cached
from otherview.data.source import Source, names_fingerprint, path_of, paths_of
from otherview.data.tiff_windows import Canvas
from otherview.data.values import Values, packed
from otherview.errors import BrokenImage, WrongRequest

MOST_OPEN, MOST_DECODED = 8, 2
"""Files that a process keeps open, and images that it keeps decoded."""
LEAST_SPREAD, LEAST_SPAN = 0.02, 0.25
"""Shares: of what an image's values span, a window's deviation; of the range of eight bits, what values span at least."""
COARSE = 16
"""Pixels that a window has at least, where a coarser level decides about it."""


class Grid(NamedTuple):
    """Which windows there are."""

    size: int
    stride: int
    level: int = 0

    @classmethod
    def from_words(cls, words: str) -> tuple[str, "Grid"]:
        """SPEC and grid of what stands behind `tiles:`; raises WrongRequest."""
        spec, _, numbers = words.rpartition("@")
        parts = numbers.split(":")
        if not spec or len(parts) > 3 or not all(part.isdigit() for part in parts) or 0 in map(int, parts[:2]):
            raise WrongRequest(
                f"tiles:{words} is no grid of windows: write tiles:SPEC@SIZE[:STRIDE][:LEVEL], in pixels"
            )
        size, *more = map(int, parts)
        return spec, cls(size, more[0] if more else size, more[1] if len(more) > 1 else 0)

    def starts(self, length: int) -> list[int]:
        """Where windows begin along a side; the last one ends with it."""
        last = max(0, length - self.size)
        return [*range(0, last, self.stride), last]


class Tiles(Parts):
    """A row per window: `image`, its index in the source behind, `top`, `left`, `height` and `width`."""

    def __init__(self, base: Source, table: Table, grid: Grid) -> None:
        super().__init__(base, table)
        self.grid = grid
        self._open: OrderedDict[tuple[int, int], Canvas | Values] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def name(self, index: int) -> str:
        """The file's name, and where the window begins."""
        top, left = (self.table.number(side, index) for side in ("top", "left"))
        return f"{self.base.name(self.whole(index))}@{top},{left}"

    def read(self, index: int) -> bytes:
        image, *place = (self.table.number(column, index) for column in ("image", *PLACE))
        if not place[2]:  # what stands for a file without windows
            raise BrokenImage(f"{self.name(index)}: its windows could not be looked up; it cannot be read")
        try:
            with faults_named():
                return packed(_window(self._canvas(image), self.grid.level, *place))
        except BrokenImage as error:
            raise BrokenImage(f"{self.name(index)}: {error}") from error

    def _canvas(self, image: int) -> Canvas | Values:
        """An opened file of this process, or a decoded image."""
        key = (os.getpid(), image)  # a forked worker opens its own
        if key not in self._open:
            self._open[key] = _opened(self.base, image)
            decoded = sum(isinstance(one, Values) for one in self._open.values())
            if len(self._open) > MOST_OPEN or decoded > MOST_DECODED:
                closed = self._open.popitem(last=False)[1]
                if isinstance(closed, Canvas):
                    closed.close()
        self._open.move_to_end(key)
        return self._open[key]


PLACE = "top", "left", "height", "width"


def _opened(base: Source, image: int) -> Canvas | Values:
    path = path_of(base, image)
    if path is not None and tiff.INSTALLED and _is_tiff(path):
        try:
            return Canvas(path)
        except BrokenImage:
            pass  # a picture: palettes, CMYK
    values = decode_values(base.read(image), 3)
    shape = values.array.shape
    # arrays may be [C, H, W]
    first = values.format == "array" and len(shape) == 3 and shape[0] < min(shape[1:]) and shape[2] not in (1, 3, 4)
    return values._replace(array=np.moveaxis(values.array, 0, -1)) if first else values


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in tiff.STARTS
    except OSError:
        return False


def _window(canvas: Canvas | Values, level: int, top: int, left: int, height: int, width: int) -> Values:
    if isinstance(canvas, Canvas):
        return canvas.window(level, top=top, left=left, height=height, width=width)
    return canvas._replace(array=canvas.array[top : top + height, left : left + width])


def open_tiles(words: str, open_base: Callable[[str], Source], *, named: str) -> Tiles:
    """The windows of a SPEC; `named` says where it lies from anywhere."""
    spec, grid = Grid.from_words(words)
    base = open_base(spec)
    key = Path(f"{named} {names_fingerprint(base)}")
    table = Table(cached("tiles", key, lambda place: _index(base, grid, place)))
    if not len(table):
        raise WrongRequest(
            f"{spec} has no window at level {grid.level} that shows anything: check it with `otherview doctor`"
        )
    return Tiles(base, table, grid)


def _index(base: Source, grid: Grid, place: Path) -> list[Path]:
    """An image that cannot be read has one row, so that it is named and counted as any broken image."""
    writer, ground = TableWriter(place, "image", *PLACE, "label"), 0
    for image in range(len(base)):
        try:
            with faults_named(), _closed(_opened(base, image)) as canvas:
                every = list(_shown(canvas, grid))
                windows = [window for window in every if window is not None]
                ground += len(every) - len(windows)
        except BrokenImage:
            windows = [(0, 0, 0, 0)]
        except WrongRequest as error:
            raise WrongRequest(f"tiles of {base.name(image)}: {error}") from error
        for window in windows:
            writer.add("", image=image, label=NO_LABEL, **dict(zip(PLACE, window, strict=True)))
    if ground:
        print(f"{len(writer):,} windows; {ground:,} that show nothing but ground are left out", file=sys.stderr)
    writer.close()
    return paths_of(base)


@contextmanager
def _closed(canvas: Canvas | Values) -> Iterator[Canvas | Values]:
    try:
        yield canvas
    finally:
        if isinstance(canvas, Canvas):
            canvas.close()


def _shown(canvas: Canvas | Values, grid: Grid) -> Iterator[tuple[int, int, int, int] | None]:
    """The windows that show something, or cannot be read, so that they are named later; None for each of the others."""
    sizes = canvas.sizes if isinstance(canvas, Canvas) else [canvas.array.shape[:2]]
    if grid.level >= len(sizes):
        raise WrongRequest(f"its levels are 0 … {len(sizes) - 1}, and level {grid.level} was asked for")
    (height, width), size = sizes[grid.level], grid.size
    windows = [
        (top, left, min(size, height), min(size, width)) for top in grid.starts(height) for left in grid.starts(width)
    ]
    coarse = _coarse_level(sizes, grid)
    scale = sizes[coarse][0] / height, sizes[coarse][1] / width
    found = [_look(canvas, coarse, sizes[coarse], scale, window) for window in windows]
    read = [one for one in found if one is not None]
    if not read:
        raise BrokenImage("none of its windows can be read")
    low, high = min(one.low for one in read), max(one.high for one in read)
    least = LEAST_SPREAD * max(high - low, LEAST_SPAN * 255 if read[0].eight else 0)
    for window, one in zip(windows, found, strict=True):
        yield window if one is None or (one.valid and one.spread > least) else None


def _coarse_level(sizes: list[tuple[int, int]], grid: Grid) -> int:
    """The coarsest level on which a window is still large enough to be judged."""
    height = sizes[grid.level][0]
    enough = [level for level in range(grid.level, len(sizes)) if grid.size * sizes[level][0] >= COARSE * height]
    return max(enough, default=grid.level)


class _Look(NamedTuple):
    """What a window is like: its largest deviation over channels, its extremes, whether it has values, whether of 8 bits."""

    spread: float
    low: float
    high: float
    valid: bool
    eight: bool


def _look(
    canvas: Canvas | Values, level: int, size: tuple[int, int], scale: tuple[float, float], window: tuple[int, ...]
) -> _Look | None:
    """None for a window that cannot be read."""
    top, left = (min(int(start * by), most - 1) for start, by, most in zip(window[:2], scale, size, strict=True))
    rows, columns = (max(1, round(length * by)) for length, by in zip(window[2:], scale, strict=True))
    rows, columns = min(rows, size[0] - top), min(columns, size[1] - left)
    try:
        array = _window(canvas, level, top, left, rows, columns).array
    except Exception:  # of a foreign decoder; it is named when the window is read
        return None
    flat = array.reshape(rows * columns, -1)
    eight = array.dtype.itemsize == 1
    if array.dtype.kind == "f":
        flat = flat[np.isfinite(flat).all(axis=1)]
        if len(flat) <= rows * columns / 2:
            return _Look(0.0, np.inf, -np.inf, valid=False, eight=eight)
    spread = float(flat.std(axis=0, dtype=np.float64).max())
    return _Look(spread, float(flat.min()), float(flat.max()), valid=True, eight=eight)
