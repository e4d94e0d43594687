"""What the values of deep images mean, found in the images: by kind of file, before any work.

    preprocessing = with_ranges(source, preprocessing)
    preprocessing.ranges                     # {"TIFF uint16": ((0.0, 4095.0),), "PNG uint16": ((0.0, 65535.0),)}

Counts from 0 on are read as 8, 10, 12, 14 or 16 bits, whichever are in use: a depth is where at least one image of fifty fills
its upper half and none the next octave, so that 12-bit and 16-bit images of one kind are told apart. Shares are read as they
are; everything else (Hounsfield units, reflectances above 1) from the first to the last of its values but one in a thousand.
Sources of eight bits alone have no ranges, and nothing but the beginning of some files is looked at.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from otherview.data.decode import decode_values
from otherview.data.image import Preprocessing
from otherview.data.settings import Range
from otherview.data.source import Source, first_of
from otherview.data.values import DEPTHS, extremes, range_around, sample_of
from otherview.errors import BrokenImage

LOOKED_AT, FEW = 64, 4
"""Images of every ending, spread evenly over the source; where there is nothing new, a few."""
NAMES = 20_000
"""Names that are looked at for their endings, likewise."""
SAMPLED = 2048
"""Values of an image."""
IN_USE = 0.02
"""Share of a kind's images that a depth must have."""
TAILS = 0.001, 0.999
EIGHT_BITS = re.compile(
    rb"\xff\xd8\xff|GIF8|BM|RIFF|\x89PNG.{20}[\1\2\4\x08]|P[56]\s+\d+\s+\d+\s+(?:\d\d?|1\d\d|2[0-4]\d|25[0-5])\s",
    re.DOTALL,
)
"""How files begin that hold no more."""
ENDING = re.compile(r"(\.\w{1,7})(?:\[\d+\]|#\d+|@\d+,\d+|\])?$")
"""Of a file's name, or of the file that a row, a slice or a window comes from: train.parquet[17], scan.nii#3, slide.tif@0,512."""


class Seen(NamedTuple):
    """What is kept of a deep image."""

    kind: str
    said: bool
    """Whether the file itself says what is black and white."""
    dtype: np.dtype
    low: float
    high: float
    sample: np.ndarray


def with_ranges(source: Source, preprocessing: Preprocessing) -> Preprocessing:
    """The same, with the ranges of kinds that it does not know yet; they are found from the same images every time."""
    known = dict(preprocessing.ranges)
    by_kind: dict[str, list[Seen]] = defaultdict(list)
    for seen in deep_images(source, preprocessing.channels, known=known):
        by_kind[seen.kind].append(seen)
    auto = preprocessing.levels == "auto"
    new = {kind: ranges_of(some) if auto else () for kind, some in by_kind.items() if kind not in known}
    return preprocessing._replace(ranges={**known, **dict(sorted(new.items()))}) if new else preprocessing


def deep_images(source: Source, channels: int, *, known: Collection[str] = ()) -> list[Seen]:
    """Those among some images of every ending that have more than eight bits.

    Where the first few of an ending are of known kinds, or of eight bits beside known kinds, the others are not looked at.
    """
    by_ending: dict[str, list[int]] = defaultdict(list)
    for index in first_of(source, NAMES).tolist():
        found_in = ENDING.search(source.name(index))
        by_ending[found_in[1].lower() if found_in else ""].append(index)
    found: list[Seen] = []
    for some in by_ending.values():
        news = not known
        for place, index in enumerate(spread(some, LOOKED_AT)):
            if place == FEW and not news:
                break
            if (seen := _look(source, index, channels)) is not None:
                news = news or seen.kind not in known
                found.append(seen)
    return found


def spread(indices: Sequence[int], count: int) -> list[int]:
    """So many of them from all over, and the first of these from all over, too."""
    places = np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int))
    golden = np.argsort(np.arange(len(places)) * 0.618034 % 1)
    return [indices[place] for place in places[golden]]


def _look(source: Source, index: int, channels: int) -> Seen | None:
    try:
        data = source.read(index)
        if EIGHT_BITS.match(data):
            return None
        values = decode_values(data, channels)
    except BrokenImage:
        return None
    if not values.deep or values.array.dtype.kind not in "uif":
        return None
    low, high = extremes(values.array)
    sample = sample_of(values.array, SAMPLED).copy()
    return Seen(values.kind, values.said is not None, values.array.dtype, low, high, sample)


def ranges_of(images: Sequence[Seen]) -> tuple[Range, ...]:
    """The ranges in use among images of one kind; none where every file says it itself."""
    images = [one for one in images if not one.said]
    if not images:
        return ()
    low, high = min(one.low for one in images), max(one.high for one in images)
    whole = range_around(images[0].dtype, low, high)
    if images[0].dtype.kind in "ui" and low >= 0 and high < 2**16:
        return _depths([one.high for one in images])
    if whole == (0.0, 1.0):
        return (whole,)
    first, last = np.quantile(np.concatenate([one.sample for one in images]), TAILS)
    return ((float(first), float(last)),) if first < last else (whole,)


def _depths(largest: Sequence[float]) -> tuple[Range, ...]:
    """The depths in use, the lowest first: always the one that holds the largest value of all."""
    octaves = np.bincount([int(value).bit_length() for value in largest], minlength=max(DEPTHS) + 2)
    most = next(bits for bits in DEPTHS if max(largest) < 2**bits)
    least = max(1, IN_USE * len(largest))
    used = [bits for bits in DEPTHS if bits < most and octaves[bits] >= least and not octaves[bits + 1]]
    return tuple((0.0, 2.0**bits - 1) for bits in (*used, most))
