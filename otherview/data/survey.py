"""What some images, drawn at random, say of all of them: how many differ, their size, channels, mean and deviation.

    seen = survey(source, preprocessing=preprocessing)
    seen.different, seen.sides, seen.mean

For choices before a run; `otherview doctor` reads every image.
"""

import hashlib
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from otherview.data.first_images import faults_of_first, medians_of, moments_of
from otherview.data.image import Preprocessing
from otherview.data.picture import open_picture
from otherview.data.source import Source
from otherview.errors import BrokenImage, WrongChannels

DRAWN, DECODED = 256, 64
"""Images that are read, and those of them that are decoded."""
MANY_AGAIN = 8
"""So many different images that were drawn more than once say that copies are the rule."""
SCALE = 0.25
"""At which mean and deviation are measured, where a file can be decoded smaller."""
LEAST_STD = 1 / 255
"""A channel that never changes must not be divided by zero."""


class Survey(NamedTuple):
    """Means and deviations are of levels in [0, 1], per channel, every image with the same weight."""

    different: int
    """Images without their copies, estimated."""
    sides: tuple[int, int]
    """Medians of the shorter and the longer side, in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


def channels_of(source: Source, preprocessing: Preprocessing) -> int:
    """The channels of some images, where all of those have the same number; else as asked for."""
    faults = faults_of_first(source, preprocessing)
    found = {fault.channels for fault in faults if isinstance(fault, WrongChannels)}
    return found.pop() if len(found) == 1 else preprocessing.channels


def survey(source: Source, *, preprocessing: Preprocessing) -> Survey:
    """The same images are drawn every time; broken ones are passed over."""
    drawn = np.random.default_rng(0).permutation(len(source))[:DRAWN]
    digests: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    moments: list[np.ndarray] = []
    for place, index in enumerate(drawn.tolist()):
        try:
            data = source.read(index)
            digests.append(hashlib.blake2b(data, digest_size=16).digest())
            image = open_picture(data, source.name(index), preprocessing)
            sizes.append((image.height, image.width))
            if place < DECODED:
                moments.append(moments_of(image.reduced(SCALE).pixels))
        except BrokenImage:
            continue
    mean, square = np.mean(moments, axis=0) if moments else (np.zeros(preprocessing.channels), np.ones(1))
    std = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), LEAST_STD)
    return Survey(
        different_of(len(source), Counter(digests).values()),
        medians_of(sizes),
        tuple(round(float(value), 4) for value in mean),
        tuple(round(float(value), 4) for value in std),
    )


def different_of(images: int, copies: Collection[int]) -> int:
    """How many different images there are, if those drawn were seen so many times each; to two digits, if not all once.

    Where many of them come again, all are taken to have as many copies: so many of each of M images show about
    M (1 − (1 − drawn/images) ^ (images/M)) of them. Few that come again, blank ones say, tell nothing of the others.
    """
    drawn, distinct = sum(copies), len(copies)
    if distinct >= drawn:
        return images
    if 1 in copies and sum(count > 1 for count in copies) < MANY_AGAIN:
        return max(distinct, int(float(f"{images * distinct / drawn:.2g}")))
    low, high = 1.0, float(images)
    for _ in range(60):
        middle = (low + high) / 2
        shown = middle * (1 - (1 - drawn / images) ** (images / middle))
        low, high = (middle, high) if shown < distinct else (low, middle)
    return max(distinct, int(float(f"{high:.2g}")))
