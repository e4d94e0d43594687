"""A look at a few images before any work, so that what is wrong with all of them is said once, and at once.

    preprocessing = settled(source, preprocessing, flag="--data")

Single broken images are nobody's fault and are replaced or left out later; a folder of five-channel arrays read as
RGB is a wrong request. What deep images' values mean is found here, and images that hardly differ from one gray are warned of.
"""

from collections.abc import Sequence

import numpy as np

from otherview.data.image import Preprocessing
from otherview.data.picture import open_picture, picture_of
from otherview.data.ranges import with_ranges
from otherview.data.settings import said
from otherview.data.source import Source, first_of, name_once
from otherview.errors import BrokenImage, WrongChannels, WrongRequest
from otherview.launch import launched_rank

LOOKED_AT = 12
LEAST_SPREAD = 0.03
"""Standard deviation over all pixels, of levels in [0, 1]: with less, an encoder hardly sees anything. Photos have 0.25."""


def settled(source: Source, preprocessing: Preprocessing, *, flag: str, fixed: bool = False) -> Preprocessing:
    """The preprocessing with what these images' values mean; raises WrongRequest where none of some images can be read.

    `fixed` says that an encoder's number of channels is given and cannot be asked for.
    """
    check_first(source, preprocessing, flag=flag, fixed=fixed)
    preprocessing = with_ranges(source, preprocessing)
    if launched_rank() == 0 and (warning := hardly_used(source, preprocessing, flag=flag)):
        name_once(warning, "warning")
    return preprocessing


def check_first(source: Source, preprocessing: Preprocessing, *, flag: str, fixed: bool = False) -> None:
    """Raise WrongRequest where none of some images, spread over the source, can be read; the first reason stands in it."""
    faults = faults_of_first(source, preprocessing)
    if not faults:
        return
    numbers = {fault.channels if isinstance(fault, WrongChannels) else None for fault in faults}
    if len(numbers) == 1 and (channels := numbers.pop()):
        wanted = preprocessing.channels
        remedy = (
            f"the encoder takes images of {wanted}"
            if fixed
            else f"add --encoder.channels {channels}, and for each channel --views.mean and --views.std, which "
            f"`otherview doctor --channels {channels}` measures"
        )
        raise WrongRequest(f"the images of {flag} have {channels} channels, not {wanted}: {remedy}")
    raise WrongRequest(
        f"none of {len(faults)} images of {flag} can be read, the first of them because {faults[0]}: "
        "`otherview doctor` says why for each"
    )


def faults_of_first(source: Source, preprocessing: Preprocessing) -> list[BrokenImage]:
    """Why each of some images, spread over the source, cannot be read; nothing where one of them can."""
    faults: list[BrokenImage] = []
    for index in first_of(source, LOOKED_AT).tolist():
        try:
            picture_of(source, index, preprocessing).decode()
        except BrokenImage as error:
            faults.append(error)
        else:
            return []
    return faults


def median_sides(source: Source) -> tuple[int, int]:
    """The medians of the shorter and the longer side, in pixels, of some images spread over the source."""
    found: list[tuple[int, int]] = []
    for index in first_of(source, LOOKED_AT).tolist():
        try:
            image = open_picture(source.read(index), source.name(index))
        except BrokenImage:
            continue
        found.append((image.height, image.width))
    return medians_of(found)


def medians_of(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of the shorter and the longer side of images of these heights and widths."""
    shorter, longer = np.median(np.sort(np.array(sizes or [(1, 1)]), axis=1), axis=0)
    return round(float(shorter)), round(float(longer))


def hardly_used(source: Source, preprocessing: Preprocessing, *, flag: str) -> str:
    """A line where some images, spread over the source, hardly use the range of levels; else nothing."""
    moments = [
        moments_of(pixels).mean(axis=1)
        for index in first_of(source, LOOKED_AT).tolist()
        if (pixels := _pixels(source, index, preprocessing)) is not None
    ]
    if not moments:
        return ""
    mean, square = np.mean(moments, axis=0)
    spread = float(np.sqrt(max(0.0, square - mean**2)))
    return (
        f"the images of {flag} hardly use the range from black to white (mean {mean:.3f}, standard deviation {spread:.3f}, read "
        f"with levels {said(preprocessing.levels)}): try levels percentile 1 99; `otherview doctor` shows how values are spread"
        if spread < LEAST_SPREAD
        else ""
    )


def _pixels(source: Source, index: int, preprocessing: Preprocessing) -> np.ndarray | None:
    try:
        return picture_of(source, index, preprocessing).reduced(0.25).pixels
    except BrokenImage:
        return None


def moments_of(pixels: np.ndarray) -> np.ndarray:
    """Per channel, mean and mean square of levels in [0, 1]: [2, C]."""
    levels = pixels.astype(np.float64) / np.iinfo(pixels.dtype).max
    return np.stack([levels.mean(axis=(0, 1)), np.square(levels).mean(axis=(0, 1))])
